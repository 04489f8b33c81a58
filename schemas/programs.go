package schemas

import (
	"embed"
	"fmt"
	"slices"
	"strings"
)

// The program in Go lies in a module of its own, which Go embeds nothing of: go.txt is its copy.
//
//go:embed clients/go.txt clients/java/src/main/java/Subscriber.java clients/python/subscriber.py
//go:embed clients/rust/src/main.rs clients/shell/subscriber.sh clients/typescript/subscriber.ts
var clients embed.FS

// A program is a subscriber of clients/, and how it becomes one that makes no consumer.
type program struct {
	language, file string
	url            string      // the literal of the server
	edits          [][2]string // what is replaced by what
	run            string
}

// Languages lists what [Program] knows, in order.
func Languages() []string {
	var names []string
	for _, p := range programs() {
		names = append(names, p.language)
	}
	slices.Sort(names)
	return names
}

// Program is the subscriber of the language for a consumer that is there: bound to it by its name,
// and without the part that makes one. CONSUMER and NATS_URL in the program's environment still
// say otherwise. Run says how it is run. Stream, consumer and url are put into the program as they
// are, so none may hold what ends a text in its language.
func Program(language, stream, consumer, url string) (text, run string, err error) {
	i := slices.IndexFunc(programs(), func(p program) bool { return p.language == language })
	if i < 0 {
		return "", "", fmt.Errorf("no program in %q; there are %s", language, strings.Join(Languages(), ", "))
	}
	p := programs()[i]
	raw, err := clients.ReadFile("clients/" + p.file)
	if err != nil {
		return "", "", fmt.Errorf("read the program in %s: %w", language, err)
	}
	text = string(raw)
	const server = "nats://127.0.0.1:4222"
	edits := append(p.edits,
		[2]string{"every event of the stream TOGETHER", "every event of " + consumer},
		[2]string{"demo-" + language, consumer},
		[2]string{p.url, strings.Replace(p.url, "nats.DefaultURL", `"`+server+`"`, 1)})
	for _, edit := range edits {
		if strings.Count(text, edit[0]) != 1 {
			return "", "", fmt.Errorf("the program in %s has not once what is to be replaced: %s", language, edit[0])
		}
		text = strings.Replace(text, edit[0], edit[1], 1)
	}
	text = strings.ReplaceAll(text, "TOGETHER", stream)
	return strings.ReplaceAll(text, server, url), p.run, nil
}

func programs() []program {
	return []program{
		{
			language: "go", file: "go.txt", url: "nats.DefaultURL",
			edits: [][2]string{
				{"\t\"errors\"\n", ""},
				{`	durable, filter := cmp.Or(os.Getenv("CONSUMER"), "demo-go"), cmp.Or(os.Getenv("FILTER"), "together.>")
	consumer, err := js.Consumer(ctx, "TOGETHER", durable)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		config := jetstream.ConsumerConfig{Durable: durable, FilterSubject: filter, AckPolicy: jetstream.AckExplicitPolicy}
		consumer, err = js.CreateConsumer(ctx, "TOGETHER", config)
	}
`, `	consumer, err := js.Consumer(ctx, "TOGETHER", cmp.Or(os.Getenv("CONSUMER"), "demo-go"))
`},
			},
			run: "save it as main.go in a folder of its own, then: go mod init subscriber && go mod tidy && go run .",
		},
		{
			language: "java", file: "java/src/main/java/Subscriber.java", url: "nats://127.0.0.1:4222",
			edits: [][2]string{{`      try {
        connection.jetStreamManagement().getConsumerInfo("TOGETHER", durable);
      } catch (JetStreamApiException missing) {
        connection.jetStreamManagement().createConsumer("TOGETHER", ConsumerConfiguration.builder().durable(durable)
            .filterSubject(System.getenv().getOrDefault("FILTER", "together.>")).ackPolicy(AckPolicy.Explicit).build());
      }
`, ""}, {"import io.nats.client.api.*;\n", ""}},
			run: "save it as Subscriber.java, in a project with io.nats:jnats and io.cloudevents:cloudevents-http-basic",
		},
		{
			language: "python", file: "python/subscriber.py", url: "nats://127.0.0.1:4222",
			edits: [][2]string{
				{"from nats.js.api import AckPolicy, ConsumerConfig\nfrom nats.js.errors import NotFoundError\n", ""},
				{"FILTER = os.environ.get(\"FILTER\", \"together.>\")\n", ""},
				{`        try:
            await jetstream.consumer_info(STREAM, CONSUMER)
        except NotFoundError:
            config = ConsumerConfig(durable_name=CONSUMER, filter_subject=FILTER, ack_policy=AckPolicy.EXPLICIT)
            await jetstream.add_consumer(STREAM, config)
`, "        await jetstream.consumer_info(STREAM, CONSUMER)  # it has to be there\n"},
			},
			run: "save it as subscriber.py, then: python3 -m venv .venv && .venv/bin/pip install nats-py==2.16.0 cloudevents==2.2.0 && .venv/bin/python subscriber.py",
		},
		{
			language: "rust", file: "rust/src/main.rs", url: "nats://127.0.0.1:4222",
			edits: [][2]string{
				{"use async_nats::jetstream::consumer::{AckPolicy, pull::Config};\n", ""},
				{"use async_nats::jetstream::{self, AckKind, Message};", "use async_nats::jetstream::{self, AckKind, Message, consumer::PullConsumer};"},
				{`    let (durable, filter_subject) = (setting("CONSUMER", "demo-rust"), setting("FILTER", "together.>"));
    let consumer = match context.get_consumer_from_stream(&durable, "TOGETHER").await {
        Ok(found) => found,
        Err(_) => {
            let durable_name = Some(durable);
            let config = Config { durable_name, filter_subject, ack_policy: AckPolicy::Explicit, ..Default::default() };
            context.create_consumer_strict_on_stream(config, "TOGETHER").await? // changes none that exists
        }
    };
`, `    let durable = setting("CONSUMER", "demo-rust");
    let consumer: PullConsumer = context.get_consumer_from_stream(&durable, "TOGETHER").await?;
`},
			},
			run: "in a new folder: cargo init --edition 2024 --name subscriber && cargo add async-nats@=0.51.0 cloudevents-sdk@=0.9.0 futures-util@=0.3.34 " +
				"percent-encoding@=2.3.2 serde_json@=1.0.154 && cargo add tokio@=1.54.1 --features macros,rt-multi-thread,signal,time; " +
				"save it as src/main.rs, then: cargo run",
		},
		{
			language: "shell", file: "shell/subscriber.sh", url: "nats://127.0.0.1:4222",
			edits: [][2]string{{`nats consumer info TOGETHER "$consumer" >/dev/null 2>&1 ||
  nats consumer add TOGETHER "$consumer" --pull --ack explicit --filter "${FILTER:-together.>}" --defaults >/dev/null
`, `nats consumer info TOGETHER "$consumer" >/dev/null # it has to be there
`}},
			run: "save it as subscriber.sh, then: go install github.com/nats-io/natscli/nats@v0.5.1 && bash subscriber.sh",
		},
		{
			language: "typescript", file: "typescript/subscriber.ts", url: "nats://127.0.0.1:4222",
			edits: [][2]string{
				{"import { AckPolicy, jetstream, JetStreamApiCodes, jetstreamManager, type JsMsg }", "import { jetstream, type JsMsg }"},
				{`, FILTER = "together.>" }`, " }"},
				{`const manager = await jetstreamManager(connection, { checkAPI: false });
await manager.consumers.info(stream, CONSUMER).catch((error) => {
  if (error.code !== JetStreamApiCodes.ConsumerNotFound) throw error;
  const config = { durable_name: CONSUMER, filter_subject: FILTER, ack_policy: AckPolicy.Explicit };
  return manager.consumers.add(stream, config);
});
`, ""},
			},
			run: "save it as subscriber.ts, then: npm init -y && npm pkg set type=module && npm install @nats-io/jetstream@3.4.0 " +
				"@nats-io/transport-node@3.4.0 cloudevents@10.0.0 tsx@4.23.15 && node --import tsx subscriber.ts",
		},
	}
}
