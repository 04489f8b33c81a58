package relaytest_test

import (
	"testing"

	"go.uber.org/goleak"

	"together-relay/relay/relaytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	t.Parallel()
	relaytest.Conform(t, func(*testing.T) relaytest.Subject {
		log := &relaytest.Log{}
		log.Limit(1 << 20)
		return relaytest.Subject{
			Log: log, Events: log.Events, Letters: log.Letters,
			Away: func() { log.Fail(relaytest.ErrAway) },
			Back: func() { log.Fail(nil) },
		}
	})
}
