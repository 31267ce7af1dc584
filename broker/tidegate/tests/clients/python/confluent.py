"""A full round with confluent-kafka-python (librdkafka)."""

import sys

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, OffsetSpec

bootstrap = sys.argv[1]
admin = AdminClient({"bootstrap.servers": bootstrap})
for future in admin.create_topics([NewTopic("confluent", 3, 1, config={"cleanup.policy": "delete"})]).values():
    future.result(60)

failed = []
count = 0
for codec in ["none", "gzip", "snappy", "lz4", "zstd"]:
    producer = Producer({"bootstrap.servers": bootstrap, "compression.type": codec, "enable.idempotence": True, "linger.ms": 5})
    for n in range(200):
        producer.produce("confluent", key=str(n), value=f"{codec}{n}", on_delivery=lambda error, _: error and failed.append(error))
        count += 1
    assert producer.flush(60) == 0
assert not failed, failed

for protocol in ["classic", "consumer"]:
    group = f"confluent-{protocol}"
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": group,
            "group.protocol": protocol,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    consumer.subscribe(["confluent"])
    seen = set()
    while len(seen) < count:
        message = consumer.poll(30)
        assert message is not None and message.error() is None, message and message.error()
        seen.add(message.value())
    consumer.commit(asynchronous=False)
    committed = consumer.committed([TopicPartition("confluent", n) for n in range(3)], timeout=60)
    assert sum(partition.offset for partition in committed) == count
    consumer.close()
    described = admin.describe_consumer_groups([group])[group].result(60)
    assert described.group_id == group

resource = ConfigResource(ConfigResource.Type.TOPIC, "confluent")
configs = admin.describe_configs([resource])[resource].result(60)
assert configs["cleanup.policy"].value == "delete"
offsets = admin.list_offsets({TopicPartition("confluent", 0): OffsetSpec.latest()})
assert all(future.result(60).offset >= 0 for future in offsets.values())
assert admin.describe_cluster().result(60).controller.id == 1
for future in admin.delete_consumer_groups(["confluent-classic", "confluent-consumer"]).values():
    future.result(60)
print("all ok")
