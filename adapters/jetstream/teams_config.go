package jetstream

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"together-relay/relay"
)

// teamConsumer is the team's consumer of events as it is wanted.
func teamConsumer(team relay.Team, prefixes map[string]string) (jetstream.ConsumerConfig, error) {
	filters, err := TeamFilters(prefixes, team.Events)
	if err != nil {
		return jetstream.ConsumerConfig{}, err
	}
	cfg := consumerOf(team, filters)
	cfg.Description = "events of the team " + team.Name + ", kept by together-relay"
	return noted(cfg, team, madeOf{Events: team.Events})
}

// replayConsumer is the team's consumer of copies that are for it alone, as it is wanted.
func replayConsumer(team relay.Team) (jetstream.ConsumerConfig, error) {
	cfg := consumerOf(team, []string{replaySubject(team.Name, ">")})
	cfg.Description = "copies of events for the team " + team.Name + ", kept by together-relay"
	return noted(cfg, team, madeOf{})
}

// noted writes into the consumer what it is made of.
func noted(cfg jetstream.ConsumerConfig, team relay.Team, made madeOf) (jetstream.ConsumerConfig, error) {
	made.Filters, made.MaxDeliver, made.BackOff, made.MaxAckPending = cfg.FilterSubjects, team.MaxDeliver, texts(team.BackOff), team.MaxAckPending
	settings, err := json.Marshal(made)
	if err != nil {
		return cfg, fmt.Errorf("write settings: %w", err)
	}
	cfg.Metadata = map[string]string{teamKey: team.Name, settingsKey: string(settings)}
	return cfg, nil
}

func consumerOf(team relay.Team, filters []string) jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Durable:        team.Name,
		DeliverPolicy:  jetstream.DeliverAllPolicy,
		AckPolicy:      jetstream.AckExplicitPolicy,
		AckWait:        ackWait(team),
		MaxDeliver:     team.MaxDeliver,
		BackOff:        team.BackOff,
		MaxAckPending:  team.MaxAckPending,
		FilterSubjects: filters,
	}
}

// ackWait is how long the team may take for an event the first time: with waits, the first of
// them, whatever else is written; else what the server takes by itself.
func ackWait(team relay.Team) time.Duration {
	if len(team.BackOff) > 0 {
		return team.BackOff[0]
	}
	return 30 * time.Second
}

// A TeamDrift is a setting of a team's consumer that is not what is configured.
type TeamDrift struct{ Setting, Want, Have string }

// compareTeam lists how a team's consumer differs from what is wanted.
func compareTeam(want, have jetstream.ConsumerConfig) []TeamDrift {
	var drifts []TeamDrift
	differ := func(setting, want, have string) {
		if want != have {
			drifts = append(drifts, TeamDrift{setting, want, have})
		}
	}
	differ("filters", sorted(want.FilterSubjects), sorted(filtersOf(have)))
	differ("max_deliver", limit(int64(want.MaxDeliver)), limit(int64(have.MaxDeliver)))
	differ("backoff", written(want.BackOff), written(have.BackOff))
	differ("max_ack_pending", limit(int64(want.MaxAckPending)), limit(int64(have.MaxAckPending)))
	if len(want.BackOff) == 0 && len(have.BackOff) == 0 {
		differ("ack_wait", want.AckWait.String(), have.AckWait.String())
	}
	differ("ack_policy", want.AckPolicy.String(), have.AckPolicy.String())
	differ("deliver_policy", want.DeliverPolicy.String(), have.DeliverPolicy.String())
	differ("inactive_threshold", age(want.InactiveThreshold), age(have.InactiveThreshold))
	differ("headers_only", strconv.FormatBool(want.HeadersOnly), strconv.FormatBool(have.HeadersOnly))
	return drifts
}

func filtersOf(cfg jetstream.ConsumerConfig) []string {
	if cfg.FilterSubject != "" {
		return []string{cfg.FilterSubject}
	}
	return cfg.FilterSubjects
}

func texts(waits []time.Duration) []string {
	all := make([]string, len(waits))
	for i, d := range waits {
		all[i] = d.String()
	}
	return all
}

func written(waits []time.Duration) string { return cmp.Or(strings.Join(texts(waits), " "), "none") }
