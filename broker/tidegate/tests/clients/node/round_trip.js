// A full round with kafkajs.
const { CompressionTypes, Kafka, logLevel } = require("kafkajs");

async function main() {
  const kafka = new Kafka({ clientId: "it", brokers: [process.argv[2]], logLevel: logLevel.ERROR });
  const admin = kafka.admin();
  await admin.connect();
  await admin.createTopics({ topics: [{ topic: "kafkajs", numPartitions: 3, replicationFactor: 1 }] });

  let count = 0;
  for (const idempotent of [false, true]) {
    const producer = kafka.producer({ idempotent });
    await producer.connect();
    for (const compression of [CompressionTypes.None, CompressionTypes.GZIP]) {
      const messages = Array.from({ length: 100 }, (_, n) => ({ key: `k${n}`, value: `v${n}`, headers: { h: "1" } }));
      await producer.send({ topic: "kafkajs", compression, messages });
      count += messages.length;
    }
    await producer.disconnect();
  }

  const consumer = kafka.consumer({ groupId: "kafkajs" });
  await consumer.connect();
  await consumer.subscribe({ topic: "kafkajs", fromBeginning: true });
  let seen = 0;
  await new Promise((resolve, reject) => {
    consumer
      .run({
        eachMessage: async ({ message }) => {
          if (message.headers.h.toString() !== "1") reject(new Error("the header is lost"));
          if (++seen === count) resolve();
        },
      })
      .catch(reject);
  });
  await consumer.disconnect();

  const offsets = await admin.fetchTopicOffsets("kafkajs");
  const total = offsets.reduce((sum, partition) => sum + Number(partition.offset), 0);
  if (total !== count) throw new Error(`${total} records, not ${count}`);
  const groups = await admin.listGroups();
  if (!groups.groups.some((group) => group.groupId === "kafkajs")) throw new Error("the group is not listed");
  await admin.deleteGroups(["kafkajs"]);
  await admin.deleteTopics({ topics: ["kafkajs"] });
  await admin.disconnect();
  console.log("all ok");
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
