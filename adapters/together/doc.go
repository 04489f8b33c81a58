// Package together speaks Together AI's language: the signed envelope of its
// webhooks, how it becomes a CloudEvent, and samples of it for trying things out.
//
// An envelope is {"id": string, "type": string, "data": object, …}; its signature
// is the HMAC-SHA256 of the raw body. The bytes of data travel untouched: the
// package walks the body once, notes where data begins and ends, and never
// decodes a number in it.
package together
