package jetstream

import (
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"together-relay/relay"
)

// Headers of a dead letter. The sender's own headers that its source needs to open the
// delivery again travel beside them, under their HTTP names.
const (
	reasonHeader   = "Relay-Reason"
	detailHeader   = "Relay-Detail"
	sourceHeader   = "Relay-Source"
	receivedHeader = "Relay-Received"
	ours           = "Relay-"
	theirs         = "Nats-"
)

// maxDetail keeps a dead letter's headers small, so that there is room for its body.
const maxDetail = 512

func encodeLetter(letter relay.DeadLetter) *nats.Msg {
	msg := &nats.Msg{
		Subject: deadSubject(letter.Source, letter.Reason),
		Header:  nats.Header{},
		Data:    letter.Body,
	}
	for name, value := range letter.Header {
		msg.Header[name] = []string{escapeValue(value)}
	}
	msg.Header[reasonHeader] = []string{escapeValue(letter.Reason)}
	msg.Header[detailHeader] = []string{escapeValue(shorten(letter.Detail))}
	msg.Header[sourceHeader] = []string{escapeValue(letter.Source)}
	msg.Header[receivedHeader] = []string{letter.Arrived.UTC().Format(time.RFC3339Nano)}
	return msg
}

func shorten(detail string) string {
	if len(detail) > maxDetail {
		return strings.ToValidUTF8(detail[:maxDetail], "") + "…"
	}
	return detail
}

func decodeLetter(h nats.Header, data []byte) (relay.DeadLetter, error) {
	letter := relay.DeadLetter{Delivery: relay.Delivery{Body: data, Header: map[string]string{}}}
	for name := range h {
		value, err := unescapeValue(h.Get(name))
		if err != nil {
			return letter, fmt.Errorf("decode header %s: %w", name, err)
		}
		switch {
		case name == reasonHeader:
			letter.Reason = value
		case name == detailHeader:
			letter.Detail = value
		case name == sourceHeader:
			letter.Source = value
		case name == receivedHeader:
			if letter.Arrived, err = time.Parse(time.RFC3339Nano, value); err != nil {
				return letter, fmt.Errorf("decode header %s: %w", name, err)
			}
		case !strings.HasPrefix(name, ours) && !strings.HasPrefix(name, theirs):
			letter.Header[name] = value
		}
	}
	if letter.Source == "" || letter.Reason == "" {
		return letter, fmt.Errorf("decode message: no dead letter of a delivery")
	}
	return letter, nil
}
