// Prints every event of the stream TOGETHER, each acknowledged once it is handled.
import { AckPolicy, jetstream, JetStreamApiCodes, jetstreamManager, type JsMsg } from "@nats-io/jetstream";
import { connect } from "@nats-io/transport-node";
import { type CloudEvent, HTTP } from "cloudevents";
import { writeSync } from "node:fs";
import { setTimeout } from "node:timers/promises";

const { NATS_URL = "nats://127.0.0.1:4222", NATS_USER, NATS_PASSWORD } = process.env;
const { CONSUMER = "demo-typescript", FILTER = "together.>" } = process.env;

/** Your work goes here. Throw to have the event again later. */
async function handle(event: CloudEvent<unknown>, data: string): Promise<void> {
  writeSync(1, `${event.type} ${event.id} ${event.subject ?? "-"} ${data}\n`);
}

/** The SDK knows no NATS, but HTTP names the headers alike. It leaves percent-encoded values to us. */
function read(message: JsMsg): CloudEvent<unknown> {
  const headers: Record<string, string> = {};
  for (const [name, [value]] of message.headers ?? []) {
    if (name.startsWith("ce-")) headers[name] = decodeURIComponent(value);
  }
  headers["content-type"] = headers["ce-datacontenttype"];
  return HTTP.toEvent({ headers, body: message.string() }) as CloudEvent<unknown>;
}

let stopping = false;
for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => stopping = true);

/** Handles the messages of its consumer on the stream until a signal ends it. */
async function take(stream: string): Promise<void> {
  const manager = await jetstreamManager(connection, { checkAPI: false });
  await manager.consumers.info(stream, CONSUMER).catch((error) => {
    if (error.code !== JetStreamApiCodes.ConsumerNotFound) throw error;
    const config = { durable_name: CONSUMER, filter_subject: FILTER, ack_policy: AckPolicy.Explicit };
    return manager.consumers.add(stream, config);
  });
  const consumer = await jetstream(connection).consumers.get(stream, CONSUMER);
  while (!stopping) {
    const message = await consumer.next({ expires: 1000 }).catch(() => setTimeout(1000, null)); // no server?
    if (!message) continue;
    let event: CloudEvent<unknown>;
    try {
      event = read(message);
    } catch (error) {
      message.term(`not a CloudEvent: ${error}`); // and never will be
      continue;
    }
    try {
      await handle(event, message.string());
      message.ack();
    } catch (error) {
      console.error(`handle ${event.id}: ${error}`);
      message.nak(5000);
    }
  }
}

const { host, username, password } = new URL(NATS_URL); // the client would take the port from a password
const login = { user: NATS_USER ?? username, pass: NATS_PASSWORD ?? password };
const connection = await connect({ servers: host, ...login, maxReconnectAttempts: -1, ignoreAuthErrorAbort: true });
(async () => {
  for await (const status of connection.status()) if (status.type === "error") console.error(status.error.message);
})();
await take("TOGETHER");
setTimeout(5000, null, { ref: false }).then(() => process.exit(1)); // the server may be away
await connection.drain();
