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

// Program is the subscriber of the language for a team: bound by its name to its two consumers, that
// of the stream and that of replays, and without the part that makes one. It asks for no more than
// the state of both and their next messages. CONSUMER and NATS_URL in the program's environment
// still say otherwise. Run says how it is run. What is put into the program is put as it is, so
// none of it may hold what ends a text in its language.
func Program(language, stream, replays, consumer, url string) (text, run string, err error) {
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
	return strings.NewReplacer("TOGETHER_REPLAY", replays, "TOGETHER", stream, server, url).Replace(text), p.run, nil
}

func programs() []program {
	return []program{
		{
			language: "go", file: "go.txt", url: "nats.DefaultURL",
			edits: [][2]string{
				{"\t\"errors\"\n", ""},
				{"\t\"os/signal\"\n", "\t\"os/signal\"\n\t\"sync\"\n"},
				{`	durable, filter := cmp.Or(os.Getenv("CONSUMER"), "demo-go"), cmp.Or(os.Getenv("FILTER"), "together.>")
	consumer, err := js.Consumer(ctx, stream, durable)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		config := jetstream.ConsumerConfig{Durable: durable, FilterSubject: filter, AckPolicy: jetstream.AckExplicitPolicy}
		consumer, err = js.CreateConsumer(ctx, stream, config)
	}
`, `	consumer, err := js.Consumer(ctx, stream, cmp.Or(os.Getenv("CONSUMER"), "demo-go"))
`},
				{`	if err := take(ctx, js, "TOGETHER"); err != nil {
		log.Fatal(err)
	}
`, `	var beside sync.WaitGroup
	beside.Go(func() { // replays and dead letters to be tried again
		if err := take(ctx, js, "TOGETHER_REPLAY"); err != nil {
			log.Printf("nothing is taken from TOGETHER_REPLAY: %v", err)
		}
	})
	if err := take(ctx, js, "TOGETHER"); err != nil {
		log.Fatal(err)
	}
	beside.Wait()
`},
			},
			run: "save it as main.go in a folder of its own, then: go mod init subscriber && " +
				"go get github.com/nats-io/nats.go@v1.55.0 github.com/cloudevents/sdk-go/v2@v2.16.2 " +
				"github.com/cloudevents/sdk-go/protocol/nats_jetstream/v2@v2.16.2 && go run .",
		},
		{
			language: "java", file: "java/src/main/java/Subscriber.java", url: "nats://127.0.0.1:4222",
			edits: [][2]string{
				{`    try {
      connection.jetStreamManagement().getConsumerInfo(stream, durable);
    } catch (JetStreamApiException missing) {
      connection.jetStreamManagement().createConsumer(stream, ConsumerConfiguration.builder().durable(durable)
          .filterSubject(System.getenv().getOrDefault("FILTER", "together.>")).ackPolicy(AckPolicy.Explicit).build());
    }
`, `    connection.jetStreamManagement().getConsumerInfo(stream, durable); // It has to be there.
`},
				{"import io.nats.client.api.*;\n", ""},
				{`      take(connection, "TOGETHER");
`, `      var beside = new Thread(() -> { // Replays and dead letters to be tried again.
        try {
          take(connection, "TOGETHER_REPLAY");
        } catch (Exception e) {
          System.err.println("nothing is taken from TOGETHER_REPLAY: " + e);
        }
      });
      beside.setDaemon(true);
      beside.start();
      take(connection, "TOGETHER");
      beside.join();
`},
			},
			run: "save it as Subscriber.java, in a project with io.nats:jnats and io.cloudevents:cloudevents-http-basic",
		},
		{
			language: "python", file: "python/subscriber.py", url: "nats://127.0.0.1:4222",
			edits: [][2]string{
				{"from nats.js.api import AckPolicy, ConsumerConfig\nfrom nats.js.errors import NotFoundError\n", ""},
				{"FILTER = os.environ.get(\"FILTER\", \"together.>\")\n", ""},
				{`    try:
        await jetstream.consumer_info(stream, CONSUMER)
    except NotFoundError:
        config = ConsumerConfig(durable_name=CONSUMER, filter_subject=FILTER, ack_policy=AckPolicy.EXPLICIT)
        await jetstream.add_consumer(stream, config)
`, "    await jetstream.consumer_info(stream, CONSUMER)  # it has to be there\n"},
				{`async def main():
`, `async def take_replays(jetstream, stopping):
    """Replays and dead letters to be tried again."""
    try:
        await take(jetstream, "TOGETHER_REPLAY", stopping)
    except nats.errors.Error as error:
        print(f"nothing is taken from TOGETHER_REPLAY: {error}", file=sys.stderr)


async def main():
`},
				{`        await take(connection.jetstream(), "TOGETHER", stopping)
`, `        jetstream = connection.jetstream()
        await asyncio.gather(take(jetstream, "TOGETHER", stopping), take_replays(jetstream, stopping))
`},
			},
			run: "save it as subscriber.py, then: python3 -m venv .venv && .venv/bin/pip install nats-py==2.16.0 cloudevents==2.2.0 && .venv/bin/python subscriber.py",
		},
		{
			language: "rust", file: "rust/src/main.rs", url: "nats://127.0.0.1:4222",
			edits: [][2]string{
				{"use async_nats::jetstream::consumer::{AckPolicy, pull::Config};\n", ""},
				{"use async_nats::jetstream::{self, AckKind, Context, Message};", "use async_nats::jetstream::{self, AckKind, Context, Message, consumer::PullConsumer};"},
				{`    let (durable, filter_subject) = (setting("CONSUMER", "demo-rust"), setting("FILTER", "together.>"));
    let consumer = match context.get_consumer_from_stream(&durable, stream).await {
        Ok(found) => found,
        Err(_) => {
            let durable_name = Some(durable);
            let config = Config { durable_name, filter_subject, ack_policy: AckPolicy::Explicit, ..Default::default() };
            context.create_consumer_strict_on_stream(config, stream).await? // changes none that exists
        }
    };
`, `    let consumer: PullConsumer = context.get_consumer_from_stream(setting("CONSUMER", "demo-rust"), stream).await?;
`},
				{`    take(&context, "TOGETHER").await?;
`, `    let beside = async { // replays and dead letters to be tried again
        if let Err(error) = take(&context, "TOGETHER_REPLAY").await {
            eprintln!("nothing is taken from TOGETHER_REPLAY: {error}");
        }
        Ok(())
    };
    tokio::try_join!(take(&context, "TOGETHER"), beside)?;
`},
			},
			run: "in a new folder: cargo init --edition 2024 --name subscriber && cargo add async-nats@=0.51.0 cloudevents-sdk@=0.9.0 futures-util@=0.3.34 " +
				"percent-encoding@=2.3.2 serde_json@=1.0.154 && cargo add tokio@=1.54.1 --features macros,rt-multi-thread,signal,time; " +
				"save it as src/main.rs, then: cargo run",
		},
		{
			language: "shell", file: "shell/subscriber.sh", url: "nats://127.0.0.1:4222",
			edits: [][2]string{
				{`  nats consumer info "$1" "$consumer" </dev/null >/dev/null 2>&1 ||
    nats consumer add "$1" "$consumer" --pull --ack explicit --filter "${FILTER:-together.>}" --defaults >/dev/null
`, `  local info
  info=$(nats request --raw "\$JS.API.CONSUMER.INFO.$1.$consumer" '' 2>&1) || :
  if [[ $info != *'"config"'* ]]; then # it has to be there
    [[ $info != *'"consumer not found"'* ]] || info="there is no consumer $consumer"
    [[ $info != *Authorization* ]] || info+="; together-relay teams creds $consumer --new makes another password"
    echo "nothing is taken from $1: ${info:-NATS gives no answer}" >&2
    return 1
  fi
`},
				{`take TOGETHER
`, `{ # replays and dead letters to be tried again, beside the rest
  trap 'stopping=1' TERM
  take TOGETHER_REPLAY || :
} &
beside=$!
trap 'kill "$beside" 2>/dev/null || :; wait' EXIT
take TOGETHER
`},
			},
			run: "save it as subscriber.sh, then: go install github.com/nats-io/natscli/nats@v0.5.1 && bash subscriber.sh",
		},
		{
			language: "typescript", file: "typescript/subscriber.ts", url: "nats://127.0.0.1:4222",
			edits: [][2]string{
				{"import { AckPolicy, jetstream, JetStreamApiCodes, jetstreamManager, type JsMsg }", "import { jetstream, type JsMsg }"},
				{`, FILTER = "together.>" }`, " }"},
				{`  const manager = await jetstreamManager(connection, { checkAPI: false });
  await manager.consumers.info(stream, CONSUMER).catch((error) => {
    if (error.code !== JetStreamApiCodes.ConsumerNotFound) throw error;
    const config = { durable_name: CONSUMER, filter_subject: FILTER, ack_policy: AckPolicy.Explicit };
    return manager.consumers.add(stream, config);
  });
`, ""},
				{`await take("TOGETHER");
`, `// Replays and dead letters to be tried again are taken beside the rest.
const beside = take("TOGETHER_REPLAY")
  .catch((error) => console.error(` + "`nothing is taken from TOGETHER_REPLAY: ${error}`" + `));
await Promise.all([take("TOGETHER"), beside]);
`},
			},
			run: "save it as subscriber.ts, then: npm init -y && npm pkg set type=module && npm install @nats-io/jetstream@3.4.0 " +
				"@nats-io/transport-node@3.4.0 cloudevents@10.0.0 tsx@4.23.15 && node --import tsx subscriber.ts",
		},
	}
}
