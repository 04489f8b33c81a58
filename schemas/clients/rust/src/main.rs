//! Prints every event of the stream TOGETHER, each acknowledged once it is handled.
use async_nats::jetstream::consumer::{AckPolicy, pull::Config};
use async_nats::jetstream::{self, AckKind, Context, Message};
use async_nats::{ConnectOptions, ServerAddr};
use cloudevents::{AttributesReader, Event};
use futures_util::StreamExt;
use std::{env, io::Write, time::Duration};
use tokio::signal::unix::{SignalKind, signal};

/// Your work goes here. After an error the event comes again.
async fn handle(event: &Event, data: &[u8]) -> Result<(), async_nats::Error> {
    let line = format!("{} {} {} ", event.ty(), event.id(), event.subject().unwrap_or("-"));
    Ok(std::io::stdout().write_all(&[line.as_bytes(), data, b"\n"].concat())?)
}

/// The SDK cannot read a message of this client: it gets the headers, decoded, in its JSON format.
fn read(message: &Message) -> Result<Event, async_nats::Error> {
    let mut attributes = serde_json::Map::new();
    for (name, values) in message.headers.iter().flat_map(|headers| headers.iter()) {
        if let Some(name) = name.to_string().strip_prefix("ce-") {
            let value = percent_encoding::percent_decode_str(values[0].as_str()).decode_utf8()?;
            attributes.insert(name.to_owned(), value.into());
        }
    }
    Ok(serde_json::from_value(attributes.into())?)
}

fn setting(name: &str, default: &str) -> String {
    env::var(name).unwrap_or(default.to_owned())
}

/// Handles the messages of its consumer on the stream until a signal ends it.
async fn take(context: &Context, stream: &str) -> Result<(), async_nats::Error> {
    let (mut int, mut term) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let (durable, filter_subject) = (setting("CONSUMER", "demo-rust"), setting("FILTER", "together.>"));
    let consumer = match context.get_consumer_from_stream(&durable, stream).await {
        Ok(found) => found,
        Err(_) => {
            let durable_name = Some(durable);
            let config = Config { durable_name, filter_subject, ack_policy: AckPolicy::Explicit, ..Default::default() };
            context.create_consumer_strict_on_stream(config, stream).await? // changes none that exists
        }
    };
    loop {
        let mut batch = consumer.batch().max_messages(1).expires(Duration::from_secs(5)).messages().await?;
        let next = tokio::select! { next = batch.next() => next, _ = int.recv() => break, _ = term.recv() => break };
        let Some(Ok(message)) = next else {
            tokio::time::sleep(Duration::from_millis(100)).await; // nothing new for a while, or no connection
            continue;
        };
        let answer = match read(&message) {
            Err(_) => AckKind::Term, // no CloudEvent, and never will be
            Ok(event) if handle(&event, &message.payload).await.is_err() => AckKind::Nak(Some(Duration::from_secs(5))),
            Ok(_) => AckKind::Ack,
        };
        message.ack_with(answer).await?;
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), async_nats::Error> {
    let server: ServerAddr = setting("NATS_URL", "nats://127.0.0.1:4222").parse()?;
    let user = setting("NATS_USER", server.username().unwrap_or_default()); // the client takes neither from the URL
    let password = setting("NATS_PASSWORD", server.password().unwrap_or_default());
    let options = ConnectOptions::with_user_and_password(user, password);
    let client = options.event_callback(|event| async move { eprintln!("{event}") }).connect(server).await?;
    let context = jetstream::new(client.clone());
    take(&context, "TOGETHER").await?;
    Ok(tokio::time::timeout(Duration::from_secs(5), client.flush()).await??) // the server may be away
}
