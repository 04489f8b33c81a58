package main

import (
	"bytes"
	"os"

	"github.com/rs/zerolog"

	"together-relay/adapters/jetstream"
	"together-relay/adapters/natsd"
)

// teamWatch hands the teams of the file to their keeper, again whenever the file has changed.
type teamWatch struct {
	keeper  *jetstream.Teams
	server  *natsd.Server // nil if it is an outside one
	log     zerolog.Logger
	applied []byte // the file as it was when the teams were last read from it
	seen    []byte // as it was a moment ago
	said    string // what went wrong with the keys the last time
}

// set makes the teams of the settings those in force. Without a file nothing is said about
// teams, and nothing is done.
func (w *teamWatch) set(s *settings) {
	if s.text == nil {
		return
	}
	w.applied = s.text
	for _, warning := range s.teamWarnings() {
		w.log.Warn().Msg(warning)
	}
	if w.server != nil {
		w.keys(s.letIn(w.server))
	}
	w.keeper.Set(s.teamList())
}

// keys says what went wrong with the keys of teams, once.
func (w *teamWatch) keys(err error) {
	said := ""
	if err != nil {
		said = err.Error()
	}
	if said != "" && said != w.said {
		w.log.Error().Err(err).Msg("keys of teams not read again; who could log in still can")
	}
	w.said = said
}

// look reads the keys again if they have changed, and the teams if the file has changed and was left
// alone since the last look: a file that is half written would be one that some teams are taken out of.
func (w *teamWatch) look(s *settings) {
	if w.server != nil {
		w.keys(w.server.Look())
	}
	text, err := os.ReadFile(s.config)
	if err != nil || bytes.Equal(text, w.applied) {
		w.seen = nil
		return
	}
	if w.seen == nil || !bytes.Equal(text, w.seen) {
		w.seen = append([]byte{}, text...)
		return
	}
	w.applied = text // also one that is wrong: it is said once
	again, err := s.reload()
	if err != nil {
		w.log.Error().Err(err).Msg("teams not read again; the old ones stay")
		return
	}
	w.set(again)
	w.log.Info().Int("teams", len(again.teams)).Msg("teams read again; other settings wait for SIGHUP or a restart")
}
