package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"together-relay/adapters/jetstream"
	"together-relay/adapters/telemetry"
	"together-relay/adapters/together"
	"together-relay/relay"
	"together-relay/schemas"
)

// apiKey is the key of the Together API; empty if the relay does not watch it.
func (s *settings) apiKey() (string, error) {
	if s.secrets.apiKey != "" || s.secrets.apiKeyFile == "" {
		return strings.TrimSpace(s.secrets.apiKey), nil
	}
	text, err := os.ReadFile(s.secrets.apiKeyFile)
	if err != nil {
		return "", usagef("TOGETHER_API_KEY_FILE: %w", err)
	}
	key := strings.TrimSpace(string(text))
	if key == "" {
		return "", usagef("TOGETHER_API_KEY_FILE: %s holds no key", s.secrets.apiKeyFile)
	}
	return key, nil
}

// watches says whether the relay has an API key.
func (s *settings) watches() bool { return s.secrets.apiKey != "" || s.secrets.apiKeyFile != "" }

// openAPI returns a client of the Together API, or nil if there is no key. What the client does not
// understand it tells to odd, which may be nil.
func (s *settings) openAPI(odd func(string)) (*together.API, error) {
	key, err := s.apiKey()
	if err != nil || key == "" {
		return nil, err
	}
	api, err := together.NewAPI(together.APIConfig{
		Key: key, Base: s.watch.base, PerMinute: s.watch.budget, UserAgent: "together-relay/" + version(), Odd: odd,
		Origin: together.Origin{Name: defaultSource, URI: s.allSources()[defaultSource].URI, Schemas: s.schemaURLs(schemas.Types())},
	})
	if err != nil {
		return nil, usagef("TOGETHER_API_KEY and TOGETHER_BASE_URL (%s): %w", jetstream.Redact(s.watch.base), err)
	}
	return api, nil
}

// jobWatches are the resources whose jobs the API lists with their past.
func (s *settings) jobWatches(api *together.API) []relay.Watch {
	return []relay.Watch{
		{Name: "fine_tunes", Resource: api.FineTunes(), Every: s.watch.fineTunes},
		{Name: "batches", Resource: api.Batches(int64(s.watch.tokens)), Every: s.watch.batches},
		{Name: "evaluations", Resource: api.Evaluations(), Every: s.watch.evaluations},
		{Name: "files", Resource: api.Files(), Every: s.watch.files},
	}
}

// openWatcher joins the API, the schemas and the log, and returns what watches until its
// context is done; nil if there is no key.
func (s *settings) openWatcher(events *jetstream.Log, store relay.Log, set *schemas.Set, metrics *telemetry.Metrics, log zerolog.Logger) (func(context.Context) error, *watchState, error) {
	api, err := s.openAPI(func(what string) { log.Warn().Str("what", what).Msg("not understood, and passed over") })
	if api == nil {
		return nil, nil, err
	}
	models, err := api.Models(s.watch.deprecations)
	if err != nil {
		return nil, nil, usagef("deprecations in %s: %w", s.config, err)
	}
	all := append(s.jobWatches(api),
		relay.Watch{Name: "models", Resource: models, Every: s.watch.models},
		relay.Watch{Name: videosWatch, Resource: api.Videos(), Every: s.watch.videos, Registered: true},
		relay.Watch{Name: queueWatch, Resource: api.QueueJobs(), Every: s.watch.queue, Registered: true})
	all = slices.DeleteFunc(all, func(w relay.Watch) bool { return w.Every == 0 })
	state := newWatchState()
	counts := metrics.NewWatch()
	for _, w := range all {
		metrics.LookAge(w.Name, func() time.Time { return state.lastGood(w.Name) })
	}
	watcher := &relay.Watcher{
		Watches: all, Log: store, Check: set.CheckEvent, Ledger: events.Ledger(), Turn: events.Turn(), Back: time.Duration(s.watch.back),
		Done: func(look relay.Look) { logLook(log, look, state.done(look)); counts.Done(look) },
	}
	return func(ctx context.Context) error {
		defer api.Close()
		group, ctx := errgroup.WithContext(ctx)
		group.Go(func() error { greet(ctx, api, log); return nil })
		group.Go(func() error { return watcher.Run(ctx) })
		return group.Wait()
	}, state, nil
}

// greet asks what the key belongs to, for the log. Not every key may ask.
func greet(ctx context.Context, api *together.API, log zerolog.Logger) {
	account, err := api.WhoAmI(ctx)
	switch {
	case err == nil:
		log.Info().Str("organization", account.Organization).Str("project", account.Project).Str("project_name", account.ProjectName).Msg("the API key is good")
	case ctx.Err() == nil:
		log.Warn().Err(err).Msg("the API does not say what the key belongs to; the looks will show whether it is good")
	}
}

// logLook writes a line for each event of a look, and one for the look: at debug level if
// there is no trouble, or none that is new.
func logLook(log zerolog.Logger, look relay.Look, fresh bool) {
	for _, r := range look.Told {
		log.Info().Str("resource", look.Resource).Str("type", r.Type).Str("event_id", r.ID).Str("subject", r.Subject).
			Uint64("seq", r.Sequence).Str("outcome", relay.Result(r, nil)).Msg("fact")
	}
	level := zerolog.DebugLevel
	if look.Err != nil && fresh {
		level = zerolog.WarnLevel
	}
	log.WithLevel(level).Err(look.Err).Str("resource", look.Resource).Int("jobs", look.Jobs).Int("told", len(look.Told)).Int("missing", look.Missing).
		Dur("dur", look.Took).Stringer("next", look.Next.Round(time.Second/10)).Msg("look")
}

// watchState is what the last look at each resource has shown.
type watchState struct {
	began time.Time

	mu   sync.Mutex
	good map[string]time.Time
	bad  map[string]error // of the last look, if it has failed
}

func newWatchState() *watchState {
	return &watchState{began: time.Now(), good: map[string]time.Time{}, bad: map[string]error{}}
}

// done takes in a look, and says whether its trouble is news: that a key is refused is said
// once.
func (w *watchState) done(look relay.Look) (fresh bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	fresh = true
	for _, err := range w.bad {
		fresh = fresh && (!errors.Is(err, relay.ErrKeyRefused) || !errors.Is(look.Err, relay.ErrKeyRefused))
	}
	if delete(w.bad, look.Resource); look.Err != nil {
		w.bad[look.Resource] = look.Err
	} else {
		w.good[look.Resource] = time.Now()
	}
	return fresh
}

// lastGood is when the last good look at the resource was, or when the relay began.
func (w *watchState) lastGood(resource string) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	if at, ok := w.good[resource]; ok {
		return at
	}
	return w.began
}

// detail says in lines which looks have failed. A key that is refused is said once.
func (w *watchState) detail() string {
	if w == nil { // nothing is watched
		return ""
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	byText := map[string][]string{} // names by what is wrong
	for _, name := range slices.Sorted(maps.Keys(w.bad)) {
		text := strings.ReplaceAll(w.bad[name].Error(), "\n", "; ")
		if errors.Is(w.bad[name], relay.ErrKeyRefused) {
			text = "the Together API refuses the key (401); set another TOGETHER_API_KEY and restart"
		}
		byText[text] = append(byText[text], name)
	}
	var lines strings.Builder
	for _, text := range slices.Sorted(maps.Keys(byText)) {
		fmt.Fprintf(&lines, "watching %s: %s\n", strings.Join(byText[text], ", "), text)
	}
	return lines.String()
}
