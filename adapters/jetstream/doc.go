// Package jetstream speaks NATS JetStream: how an event is named and written there,
// the two streams and what they must be like, publishing, and reading back; and where the
// watcher of the API keeps what it has seen, and whose turn it is to watch.
//
// JetStream is the relay's memory. Message ids make repeated deliveries one message,
// and an acknowledgement by the stream is the only thing that makes an answer 200.
package jetstream
