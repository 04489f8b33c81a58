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

  public static void main(String[] args) throws Exception {
    for (var name : List.of("INT", "TERM")) Signal.handle(new Signal(name), signal -> stopping = true);
    var url = System.getenv().getOrDefault("NATS_URL", "nats://127.0.0.1:4222");
    var durable = System.getenv().getOrDefault("CONSUMER", "demo-java");
    try (var connection = Nats.connect(Options.builder().server(url).maxReconnects(-1).build())) {
      try {
        connection.jetStreamManagement().getConsumerInfo("TOGETHER", durable);
      } catch (JetStreamApiException missing) {
        connection.jetStreamManagement().createConsumer("TOGETHER", ConsumerConfiguration.builder().durable(durable)
            .filterSubject(System.getenv().getOrDefault("FILTER", "together.>")).ackPolicy(AckPolicy.Explicit).build());
      }
      var consumer = connection.getConsumerContext("TOGETHER", durable);
      while (!stopping) {
        var message = consumer.next(1000);
        if (message == null) continue;
        CloudEvent event = null;
        try {
          event = read(message);
          handle(event, new String(message.getData(), UTF_8));
          message.ack();
        } catch (RuntimeException e) {
          System.err.println(e);
          if (event == null) message.term(); // No CloudEvent, and never will be.
          else message.nakWithDelay(5000);
        }
      }
    }
  }
}
