package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// A Monitored is what a server's monitoring port says of its store.
type Monitored struct {
	URL          string // as it was asked, without a password
	Server       string // its name
	SyncAlways   bool   // each message is flushed before it is acknowledged
	SyncInterval time.Duration
	Err          error // why it is not known
}

// Monitor asks the monitoring port of each server, a comma between them, for what clients are
// not told. It blocks for five seconds at most for each.
func Monitor(ctx context.Context, urls string) []Monitored {
	var all []Monitored
	for text := range strings.SplitSeq(urls, ",") {
		if text = strings.TrimSpace(text); text != "" {
			all = append(all, monitor(ctx, strings.TrimSuffix(text, "/")))
		}
	}
	return all
}

func monitor(ctx context.Context, address string) Monitored {
	m := Monitored{URL: Redact(address)}
	failed := func(err error) Monitored {
		m.Err = fmt.Errorf("ask the monitoring port %s: %w", m.URL, err)
		return m
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address+"/varz", nil)
	if err != nil {
		return failed(discreet(err))
	}
	resp, err := client.Do(req)
	if err != nil {
		if wrapped, ok := errors.AsType[*url.Error](err); ok {
			err = wrapped.Err
		}
		return failed(err)
	}
	defer resp.Body.Close() //nolint:errcheck // it was only read
	if resp.StatusCode != http.StatusOK {
		return failed(fmt.Errorf("/varz answers %s", resp.Status))
	}
	var varz struct {
		Name      string `json:"server_name"`
		JetStream struct {
			Config *struct {
				SyncAlways   bool          `json:"sync_always"`
				SyncInterval time.Duration `json:"sync_interval"`
			} `json:"config"`
		} `json:"jetstream"`
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	if err == nil {
		err = json.Unmarshal(text, &varz)
	}
	if err != nil {
		return failed(fmt.Errorf("/varz is not what a NATS server says: %w", err))
	}
	if varz.JetStream.Config == nil {
		return failed(errors.New("/varz says nothing of JetStream"))
	}
	m.Server, m.SyncAlways, m.SyncInterval = varz.Name, varz.JetStream.Config.SyncAlways, varz.JetStream.Config.SyncInterval
	return m
}
