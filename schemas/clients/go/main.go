// Subscriber prints every event of the stream TOGETHER, each acknowledged once it is handled.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log"
	"net/url"
	"os"
	"os/signal"
	"syscall"
	"time"

	natsce "github.com/cloudevents/sdk-go/protocol/nats_jetstream/v2"
	"github.com/cloudevents/sdk-go/v2/binding"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	login := nats.UserInfo(os.Getenv("NATS_USER"), os.Getenv("NATS_PASSWORD"))
	server := cmp.Or(os.Getenv("NATS_URL"), nats.DefaultURL)
	nc, err := nats.Connect(server, login, nats.MaxReconnects(-1), nats.IgnoreAuthErrorAbort())
	if err != nil {
		log.Fatal(err)
	}
	defer nc.Close()
	js, _ := jetstream.New(nc)
	if err := take(ctx, js, "TOGETHER"); err != nil {
		log.Fatal(err)
	}
}

// take handles the messages of its consumer on the stream until ctx is over.
func take(ctx context.Context, js jetstream.JetStream, stream string) error {
	durable, filter := cmp.Or(os.Getenv("CONSUMER"), "demo-go"), cmp.Or(os.Getenv("FILTER"), "together.>")
	consumer, err := js.Consumer(ctx, stream, durable)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		config := jetstream.ConsumerConfig{Durable: durable, FilterSubject: filter, AckPolicy: jetstream.AckExplicitPolicy}
		consumer, err = js.CreateConsumer(ctx, stream, config)
	}
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		msg, err := consumer.Next(jetstream.FetchContext(ctx))
		if err != nil { // nothing new for a while, or no connection
			time.Sleep(100 * time.Millisecond)
			continue
		}
		for _, values := range msg.Headers() { // the SDK takes values as they are
			values[0], _ = url.PathUnescape(values[0])
		}
		e, err := binding.ToEvent(ctx, natsce.NewMessage(&nats.Msg{Header: msg.Headers(), Data: msg.Data()}))
		if err != nil || e.Validate() != nil {
			msg.TermWithReason("not a CloudEvent") // and never will be
		} else if _, err := fmt.Printf("%s %s %s %s\n", e.Type(), e.ID(), cmp.Or(e.Subject(), "-"), e.Data()); err != nil {
			log.Print(err) // the work, here printing, has failed: again later
			msg.NakWithDelay(5 * time.Second)
		} else {
			msg.Ack()
		}
	}
	return nil
}
