package main

import (
	"context"
	"maps"
	"os"
	"reflect"
	"time"

	"github.com/rs/zerolog"

	"together-relay/adapters/together"
)

// watchFiles reads the secret files each second, the teams when their file has changed, and all of
// the configuration on SIGHUP, and rotates what has changed. What cannot be read leaves the
// old secrets and teams in force.
func watchFiles(ctx context.Context, hangup <-chan os.Signal, s *settings, sources map[string]*together.Source, teams *teamWatch, log zerolog.Logger) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	known := maps.Clone(s.active)
	said := ""
	for {
		asked := false
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			teams.look(s)
		case <-hangup:
			asked = true
			again, err := s.reload()
			if err != nil {
				log.Error().Err(err).Msg("configuration not read again; the old one stays")
				continue
			}
			s = again
			teams.set(s)
		}
		secrets, err := s.secretsOf()
		switch {
		case err == nil:
			said = ""
		case asked || said != err.Error():
			said = err.Error()
			log.Error().Err(err).Msg("secrets not read again; the old ones stay")
		}
		for name, source := range sources {
			if secrets[name] == nil || reflect.DeepEqual(known[name], secrets[name]) {
				continue
			}
			if err := source.Rotate(secrets[name]); err != nil {
				log.Error().Err(err).Msg("secrets not read again; the old ones stay")
				continue
			}
			known[name] = secrets[name]
			log.Info().Str("source", name).Int("active", len(secrets[name])).Msg("secrets changed")
		}
		if asked && err == nil {
			log.Info().Msg("secrets and teams read again; other settings wait for a restart")
		}
	}
}

// reload reads the configuration again as the process was started with it.
func (s *settings) reload() (*settings, error) {
	again := &settings{}
	again.knobs = again.declare()
	for name, from := range s.origin {
		if from == "flag" {
			if err := again.knobs.Set(name, s.knobs.Lookup(name).Value.String()); err != nil {
				return nil, err
			}
		}
	}
	return again, again.load()
}
