import java.time.Duration;
import java.util.*;
import java.util.concurrent.*;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.serialization.*;

/** A full round with the Java client: idempotent producer, both group protocols, admin. Run with the jars on the class path. */
public class RoundTrip {
    static String bootstrap;

    public static void main(String[] arguments) throws Exception {
        bootstrap = arguments[0];
        Map<String, Object> config = Map.of("bootstrap.servers", bootstrap);
        try (Admin admin = Admin.create(new HashMap<>(config))) {
            admin.createTopics(List.of(new NewTopic("java", 4, (short) 1))).all().get();
            produce();
            System.out.println("idempotent ok");
            consume("classic");
            System.out.println("classic group ok");
            consume("consumer");
            System.out.println("consumer group ok");
            admin(admin);
            System.out.println("admin ok");
        }
    }

    static void produce() throws Exception {
        for (String codec : List.of("none", "gzip", "snappy", "lz4", "zstd")) {
            Map<String, Object> config = new HashMap<>(Map.of("bootstrap.servers", bootstrap, "compression.type", codec, "linger.ms", 5));
            try (var producer = new KafkaProducer<>(config, new StringSerializer(), new StringSerializer())) {
                List<Future<RecordMetadata>> sent = new ArrayList<>();
                for (int n = 0; n < 200; n++) sent.add(producer.send(new ProducerRecord<>("java", "key" + n, codec + n)));
                for (var one : sent) check(one.get().hasOffset(), "an offset");
            }
        }
    }

    static void consume(String protocol) {
        Map<String, Object> config = new HashMap<>(Map.of("bootstrap.servers", bootstrap, "group.id", "java-" + protocol,
            "group.protocol", protocol, "auto.offset.reset", "earliest", "enable.auto.commit", false));
        Set<String> seen = new HashSet<>();
        try (var consumer = new KafkaConsumer<>(config, new StringDeserializer(), new StringDeserializer())) {
            consumer.subscribe(List.of("java"));
            while (seen.size() < 1000) {
                for (var record : consumer.poll(Duration.ofSeconds(1))) seen.add(record.value());
            }
            consumer.commitSync();
            var partitions = new HashSet<TopicPartition>();
            for (int n = 0; n < 4; n++) partitions.add(new TopicPartition("java", n));
            long committed = consumer.committed(partitions).values().stream().mapToLong(OffsetAndMetadata::offset).sum();
            check(committed == 1000, "1000 committed, not " + committed);
        }
    }

    static void admin(Admin admin) throws Exception {
        check(admin.describeCluster().nodes().get().size() == 1, "one node");
        var topic = admin.describeTopics(List.of("java")).allTopicNames().get().get("java");
        check(topic.partitions().size() == 4, "four partitions");
        var groups = admin.listGroups().all().get();
        check(groups.stream().anyMatch(group -> group.groupId().equals("java-consumer")), "the group is listed");
        var described = admin.describeConsumerGroups(List.of("java-classic", "java-consumer")).all().get();
        check(described.size() == 2, "both groups are described");
        var offsets = admin.listOffsets(Map.of(new TopicPartition("java", 0), OffsetSpec.maxTimestamp())).all().get();
        check(offsets.values().iterator().next().offset() >= 0, "the offset of the largest timestamp");
        var resource = new ConfigResource(ConfigResource.Type.TOPIC, "java");
        var change = new AlterConfigOp(new ConfigEntry("retention.ms", "12345"), AlterConfigOp.OpType.SET);
        admin.incrementalAlterConfigs(Map.of(resource, List.of(change))).all().get();
        var value = admin.describeConfigs(List.of(resource)).all().get().get(resource).get("retention.ms");
        check(value.value().equals("12345") && value.source() == ConfigEntry.ConfigSource.DYNAMIC_TOPIC_CONFIG, "the new value");
        admin.deleteRecords(Map.of(new TopicPartition("java", 0), RecordsToDelete.beforeOffset(3))).all().get();
        var earliest = admin.listOffsets(Map.of(new TopicPartition("java", 0), OffsetSpec.earliest())).all().get();
        check(earliest.values().iterator().next().offset() == 3, "records are deleted");
        check(admin.describeProducers(List.of(new TopicPartition("java", 1))).all().get().size() == 1, "producers");
        check(!admin.describeLogDirs(List.of(1)).allDescriptions().get().isEmpty(), "log directories");
        admin.deleteConsumerGroups(List.of("java-classic", "java-consumer")).all().get();
    }

    static void check(boolean holds, String what) {
        if (!holds) throw new AssertionError(what);
    }
}
