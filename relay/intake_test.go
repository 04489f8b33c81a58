package relay_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"together-relay/relay"
	"together-relay/relay/relaytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// opener opens a body such as "ok evt_1", "unproven" or "unusable".
type opener struct{}

func (opener) Open(d relay.Delivery) (relay.Event, error) {
	what, id, _ := strings.Cut(string(d.Body), " ")
	ev := relaytest.NewEvent(d.Source, id, `{"what":"`+what+`"}`)
	ev.Proof = "1"
	switch what {
	case "unproven":
		return relay.Event{}, relay.ErrUnproven
	case "unusable":
		return ev, &relay.Unusable{Reason: relay.ReasonData, Detail: "data is no object"}
	}
	return ev, nil
}

func newIntake() (*relay.Intake, *relaytest.Log) {
	log := &relaytest.Log{}
	return &relay.Intake{
		Sources: map[string]relay.Opener{"together": opener{}},
		Check: func(ev relay.Event) error {
			if strings.Contains(string(ev.CloudEvent.Data()), "broken") {
				return &relay.Unusable{Reason: relay.ReasonSchema, Detail: "data.what: is broken"}
			}
			return nil
		},
		Log: log,
	}, log
}

func delivery(body string) relay.Delivery {
	return relay.Delivery{Source: "together", Body: []byte(body)}
}

func TestReceiveStoresOnce(t *testing.T) {
	t.Parallel()
	in, log := newIntake()
	first, err := in.Receive(context.Background(), delivery("ok evt_1"))
	if err != nil || first.Duplicate || first.ID != "evt_1" || first.Sequence != 1 || first.Proof != "1" {
		t.Fatalf("Receive = %+v, %v", first, err)
	}
	again, err := in.Receive(context.Background(), delivery("ok evt_1"))
	if err != nil || !again.Duplicate || again.Sequence != 1 {
		t.Fatalf("again = %+v, %v", again, err)
	}
	if n := len(log.Events()); n != 1 {
		t.Fatalf("%d events, want 1", n)
	}
}

func TestReceiveBuriesTheUnusable(t *testing.T) {
	t.Parallel()
	for body, reason := range map[string]string{
		"unusable evt_1": relay.ReasonData,
		"broken evt_1":   relay.ReasonSchema,
		"ok large":       relay.ReasonSize,
	} {
		in, log := newIntake()
		if reason == relay.ReasonSize {
			log.Limit(3)
		}
		receipt, err := in.Receive(context.Background(), delivery(body))
		if err != nil || !receipt.DeadLettered || receipt.Reason != reason || receipt.Detail == "" {
			t.Errorf("%s: Receive = %+v, %v", body, receipt, err)
		}
		letters := log.Letters()
		if len(letters) != 1 || string(letters[0].Body) != body || letters[0].Reason != reason {
			t.Errorf("%s: letters = %+v", body, letters)
		}
		if n := len(log.Events()); n != 0 {
			t.Errorf("%s: %d events, want none", body, n)
		}
	}
}

func TestReceiveStoresNothingUnproven(t *testing.T) {
	t.Parallel()
	in, log := newIntake()
	if _, err := in.Receive(context.Background(), delivery("unproven")); !errors.Is(err, relay.ErrUnproven) {
		t.Errorf("err = %v, want ErrUnproven", err)
	}
	if _, err := in.Receive(context.Background(), relay.Delivery{Source: "nobody"}); !errors.Is(err, relay.ErrUnknownSource) {
		t.Errorf("err = %v, want ErrUnknownSource", err)
	}
	if len(log.Events())+len(log.Letters()) != 0 {
		t.Error("something was stored")
	}
}

func TestReceiveSaysWhenNothingIsStored(t *testing.T) {
	t.Parallel()
	for _, body := range []string{"ok evt_1", "unusable evt_1"} {
		in, log := newIntake()
		log.Fail(relaytest.ErrAway)
		receipt, err := in.Receive(context.Background(), delivery(body))
		if away, ok := errors.AsType[*relay.NotStored](err); !ok || !errors.Is(away, relaytest.ErrAway) || receipt.DeadLettered {
			t.Errorf("%s: Receive = %+v, %v; want NotStored", body, receipt, err)
		}
	}
}

func TestStoreBuriesNothing(t *testing.T) {
	t.Parallel()
	in, log := newIntake()
	if _, err := in.Store(context.Background(), delivery("unusable evt_1")); !errors.As(err, new(*relay.Unusable)) {
		t.Errorf("err = %v, want Unusable", err)
	}
	if n := len(log.Letters()); n != 0 {
		t.Errorf("%d dead letters, want none", n)
	}
}
