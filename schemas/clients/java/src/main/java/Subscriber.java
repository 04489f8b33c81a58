import static java.nio.charset.StandardCharsets.UTF_8;

import io.cloudevents.CloudEvent;
import io.cloudevents.http.HttpMessageFactory;
import io.nats.client.*;
import io.nats.client.api.*;
import java.net.URLDecoder;
import java.util.*;
import sun.misc.Signal;

/** Prints every event of the stream TOGETHER, each acknowledged once it is handled. */
public final class Subscriber {
  private static volatile boolean stopping;

  /** Your work goes here. Throw to have the event again later. */
  private static void handle(CloudEvent event, String data) {
    var subject = Objects.requireNonNullElse(event.getSubject(), "-");
    System.out.writeBytes("%s %s %s %s\n".formatted(event.getType(), event.getId(), subject, data).getBytes(UTF_8));
    if (System.out.checkError()) throw new IllegalStateException("standard output is closed");
  }

  /** The SDK knows no NATS, but HTTP names the headers alike. It leaves percent-encoded values to us. */
  private static CloudEvent read(Message message) {
    var headers = new HashMap<String, String>();
    message.getHeaders().forEach((name, values) -> { // To URLDecoder, made for forms, a + would be a space.
      if (name.startsWith("ce-")) headers.put(name, URLDecoder.decode(values.get(0).replace("+", "%2B"), UTF_8));
    });
    return HttpMessageFactory.createReader(headers, message.getData()).toEvent();
  }

  /** Handles the messages of its consumer on the stream until a signal ends it. */
  private static void take(Connection connection, String stream) throws Exception {
    var durable = System.getenv().getOrDefault("CONSUMER", "demo-java");
    try {
      connection.jetStreamManagement().getConsumerInfo(stream, durable);
    } catch (JetStreamApiException missing) {
      connection.jetStreamManagement().createConsumer(stream, ConsumerConfiguration.builder().durable(durable)
          .filterSubject(System.getenv().getOrDefault("FILTER", "together.>")).ackPolicy(AckPolicy.Explicit).build());
    }
    var subscription = connection.jetStream().subscribe(null, PullSubscribeOptions.fastBind(stream, durable));
    while (!stopping) {
      Message message = null;
      CloudEvent event = null;
      try {
        var next = subscription.fetch(1, 1000);
        if (next.isEmpty()) continue;
        message = next.get(0);
        event = read(message);
        handle(event, new String(message.getData(), UTF_8));
        message.ack();
      } catch (RuntimeException e) {
        System.err.println(e);
        if (connection.getStatus() == Connection.Status.CLOSED) throw e;
        if (message == null) Thread.sleep(1000); // The server has none to give now.
        else if (event == null) message.term(); // No CloudEvent, and never will be.
        else message.nakWithDelay(5000);
      }
    }
  }

  public static void main(String[] args) throws Exception {
    for (var name : List.of("INT", "TERM")) Signal.handle(new Signal(name), signal -> stopping = true);
    var env = System.getenv();
    var options = Options.builder().server(env.getOrDefault("NATS_URL", "nats://127.0.0.1:4222")).maxReconnects(-1)
        .userInfo(env.getOrDefault("NATS_USER", ""), env.getOrDefault("NATS_PASSWORD", "")).build();
    try (var connection = Nats.connect(options)) {
      take(connection, "TOGETHER");
    }
  }
}
