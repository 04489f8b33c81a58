// Package together speaks Together AI's language: the signed envelope of its
// webhooks, how it becomes a CloudEvent, and how the same facts are read from the
// REST API, which has no webhooks by its documentation.
//
// An envelope is {"id": string, "type": string, "data": object, …}; its signature
// is the HMAC-SHA256 of the raw body. The bytes of data travel untouched: the
// package walks the body once, notes where data begins and ends, and never
// decodes a number in it.
//
// An [API] is the other way in. Its fine-tunes, batches, evaluations, files and models
// are each a [relay.Resource]: one list shows what has moved, and only then a job is
// asked for details. Videos and queue jobs are in no list, and are asked for one by one.
// What it tells is made of members that are named here one by one,
// never of an object passed on, for the provider's objects hold tokens and signed URLs.
package together
