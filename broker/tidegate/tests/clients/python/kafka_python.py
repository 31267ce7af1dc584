"""A full round with kafka-python."""

import sys

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import NewTopic

bootstrap = sys.argv[1]
admin = KafkaAdminClient(bootstrap_servers=bootstrap)
admin.create_topics([NewTopic("kafka-python", 3, 1)])

count = 0
for codec in [None, "gzip"]:
    producer = KafkaProducer(bootstrap_servers=bootstrap, compression_type=codec, linger_ms=5)
    sent = [producer.send("kafka-python", key=b"k%d" % n, value=b"v%d" % n, headers=[("h", b"1")]) for n in range(200)]
    assert all(future.get(60).offset >= 0 for future in sent)
    count += len(sent)
    producer.close()

consumer = KafkaConsumer(
    "kafka-python", bootstrap_servers=bootstrap, group_id="kafka-python", auto_offset_reset="earliest", enable_auto_commit=False
)
seen = 0
while seen < count:
    for records in consumer.poll(timeout_ms=1000).values():
        seen += len(records)
        assert records[0].headers == [("h", b"1")]
consumer.commit()
partitions = [TopicPartition("kafka-python", n) for n in range(3)]
assert sum(consumer.committed(partition) for partition in partitions) == count
assert sum(consumer.end_offsets(partitions).values()) == count
assert all(offset == 0 for offset in consumer.beginning_offsets(partitions).values())
found = consumer.offsets_for_times({partition: 0 for partition in partitions})
assert all(entry.offset == 0 for entry in found.values())
consumer.close()
admin.delete_topics(["kafka-python"])
print("all ok")
