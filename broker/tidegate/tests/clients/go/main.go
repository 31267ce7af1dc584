// A full round with franz-go.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

const topic = "franz-go"

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	seed := kgo.SeedBrokers(os.Args[1])

	client, err := kgo.NewClient(seed, kgo.DefaultProduceTopic(topic))
	check(err)
	admin := kadm.NewClient(client)
	_, err = admin.CreateTopic(ctx, 3, 1, nil, topic)
	check(err)

	count := 0
	codecs := []kgo.CompressionCodec{kgo.NoCompression(), kgo.GzipCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression()}
	for _, codec := range codecs {
		producer, err := kgo.NewClient(seed, kgo.DefaultProduceTopic(topic), kgo.ProducerBatchCompression(codec))
		check(err)
		var records []*kgo.Record
		for n := 0; n < 200; n++ {
			records = append(records, &kgo.Record{Key: []byte(fmt.Sprint("k", n)), Value: []byte(fmt.Sprint("v", n))})
		}
		check(producer.ProduceSync(ctx, records...).FirstErr())
		count += len(records)
		producer.Close()
	}

	consumer, err := kgo.NewClient(seed, kgo.ConsumeTopics(topic), kgo.ConsumerGroup("franz-go"), kgo.DisableAutoCommit(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	check(err)
	for seen := 0; seen < count; {
		fetches := consumer.PollFetches(ctx)
		check(fetches.Err())
		seen += fetches.NumRecords()
	}
	check(consumer.CommitUncommittedOffsets(ctx))
	consumer.Close()

	committed, err := admin.FetchOffsets(ctx, "franz-go")
	check(err)
	total := int64(0)
	committed.Each(func(offset kadm.OffsetResponse) { total += offset.At })
	if total != int64(count) {
		check(fmt.Errorf("%d committed, not %d", total, count))
	}
	ends, err := admin.ListEndOffsets(ctx, topic)
	check(err)
	total = 0
	ends.Each(func(offset kadm.ListedOffset) { total += offset.Offset })
	if total != int64(count) {
		check(fmt.Errorf("%d at the end, not %d", total, count))
	}
	_, err = admin.DescribeTopicConfigs(ctx, topic)
	check(err)
	groups, err := admin.DescribeGroups(ctx, "franz-go")
	check(err)
	check(groups.Error())
	_, err = admin.DeleteGroups(ctx, "franz-go")
	check(err)
	_, err = admin.DeleteTopics(ctx, topic)
	check(err)
	client.Close()
	fmt.Println("all ok")
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
