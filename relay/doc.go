// Package relay tells the story of together-relay in plain Go: a fact that
// happened at Together AI becomes one stored event that any team can read.
//
//	sender ──POST──▶ httpd ──Delivery──▶ Intake.Receive
//	                                        │ Open    is it proven, what does it say?   (pure)
//	                                        │ Check   does it keep its type's schema?   (pure)
//	                                        │ Append  stored, once, on disk             (one round trip)
//	                                        ▼
//	sender ◀─200────────────────────────  Receipt
//
// The request's own goroutine holds the event until it is stored; nothing is
// answered from memory, and nothing waits in a queue that a crash would empty.
// What is proven but unusable is buried as a [DeadLetter] and answered 202.
// What is not proven is never stored. Everything that is the relay's own
// trouble is a [NotStored], and the sender is asked to come back.
//
// Most facts come by no webhook. A [Watcher] asks the sender's API for them, and what it
// sees goes the same way:
//
//	API ◀──List, Tell── Watcher ──Check, Append──▶ stored, once, on disk
//	                            ──Save───────────▶ the job's mark, after its events
//
// A fact that comes both ways is one event: whichever is first is stored, and the other
// is its duplicate.
//
// The relay remembers nothing itself. That the same event is stored once is the
// work of the stream behind [Log], which knows the ids of the events it holds;
// what was seen at the API lies in a [Ledger], and a [Turn] lets one relay look at a time.
// So any number of relays may run beside each other.
//
// This package speaks no foreign language: HTTP lives in adapters/httpd, the
// envelope and signature in adapters/together, NATS in adapters/jetstream.
// cmd/together-relay joins them in one straight line.
package relay
