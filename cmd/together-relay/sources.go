package main

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"together-relay/adapters/jetstream"
	"together-relay/adapters/together"
	"together-relay/relay"
	"together-relay/schemas"
)

// defaultSource is the source that the environment configures.
const defaultSource = "together"

// allSources are those of the file, and the default one if it has a secret or stands there.
func (s *settings) allSources() map[string]sourceSettings {
	all := map[string]sourceSettings{}
	for name, source := range s.sources {
		all[name] = *source
	}
	if s.secrets.webhook != "" || s.secrets.webhookFile != "" || s.dev {
		if _, ok := all[defaultSource]; !ok {
			all[defaultSource] = sourceSettings{}
		}
	}
	return all
}

// secretsOf reads the active secrets of each source. Those of the default source come from
// the environment before the file, and with --dev from the data directory at last.
// Those that could be read are returned beside the first error.
func (s *settings) secretsOf() (all map[string][][]byte, first error) {
	all = map[string][][]byte{}
	sources := s.allSources()
	for _, name := range sortedNames(sources) {
		secrets, err := s.secretsOfOne(name, sources[name])
		if err == nil && len(secrets) == 0 {
			err = usagef("%s: source %s has no secret; set secrets or secret_file", sources[name].at, name)
		}
		if err != nil {
			first = cmp.Or(first, err)
			continue
		}
		all[name] = secrets
	}
	return all, first
}

func (s *settings) secretsOfOne(name string, source sourceSettings) ([][]byte, error) {
	var secrets [][]byte
	if name == defaultSource {
		if s.secrets.webhook != "" {
			secrets = append(secrets, splitSecrets(s.secrets.webhook, ",")...)
		}
		if s.secrets.webhookFile != "" {
			more, err := readSecrets(s.secrets.webhookFile)
			if err != nil {
				return nil, usagef("TOGETHER_WEBHOOK_SECRET_FILE: %w", err)
			}
			secrets = append(secrets, more...)
		}
		if s.secrets.webhook != "" && len(secrets) == 0 {
			return nil, usagef("TOGETHER_WEBHOOK_SECRET holds no secret")
		}
		if len(secrets) > 0 {
			return secrets, nil
		}
	}
	for _, secret := range source.Secrets {
		if secret = strings.TrimSpace(secret); secret == "" {
			return nil, usagef("%s: source %s: a secret is empty", source.at, name)
		}
		secrets = append(secrets, []byte(secret))
	}
	if source.SecretFile != "" {
		more, err := readSecrets(source.SecretFile)
		if err != nil {
			return nil, usagef("%s: source %s: %w", source.at, name, err)
		}
		secrets = append(secrets, more...)
	}
	if name == defaultSource && s.dev && len(secrets) == 0 {
		secret, err := devSecret(s.embedded.Dir)
		if err != nil {
			return nil, usagef("%w", err)
		}
		secrets = append(secrets, secret)
	}
	return secrets, nil
}

// readSecrets reads a secret file: one on each line, or separated by commas.
func readSecrets(path string) ([][]byte, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read secret: %w", err)
	}
	secrets := splitSecrets(string(text), ",\r\n")
	if len(secrets) == 0 {
		return nil, fmt.Errorf("read secret: %s holds no secret", path)
	}
	return secrets, nil
}

func splitSecrets(text, separators string) [][]byte {
	var secrets [][]byte
	for _, part := range strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(separators, r) }) {
		if part = strings.TrimSpace(part); part != "" {
			secrets = append(secrets, []byte(part))
		}
	}
	return secrets
}

func devSecretPath(dir string) string { return filepath.Join(dir, "dev-secret") }

// devSecret reads the secret of --dev, and makes it the first time.
func devSecret(dir string) ([]byte, error) {
	path := devSecretPath(dir)
	text, err := os.ReadFile(path)
	if err == nil && len(bytes.TrimSpace(text)) > 0 {
		return bytes.TrimSpace(text), nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the --dev secret: %w", err)
	}
	raw := make([]byte, 32)
	_, _ = rand.Read(raw) // never fails
	secret := []byte(hex.EncodeToString(raw))
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("keep the --dev secret: %w", err)
	}
	if err := os.WriteFile(path, append(secret, '\n'), 0o600); err != nil {
		return nil, fmt.Errorf("keep the --dev secret: %w", err)
	}
	return secret, nil
}

// openSources makes the source of each name, with its active secrets.
func (s *settings) openSources() (map[string]*together.Source, error) {
	secrets, err := s.secretsOf()
	if err != nil {
		return nil, err
	}
	s.active = secrets
	urls := s.schemaURLs(slices.DeleteFunc(schemas.Types(), func(typ string) bool { return !schemas.Binds(typ) }))
	opened := map[string]*together.Source{}
	for name, source := range s.allSources() {
		opened[name], err = together.NewSource(together.Config{
			Name:      name,
			URI:       source.URI,
			Timestamp: source.Timestamp == "required",
			Tolerance: source.Tolerance,
			Schemas:   urls,
		}, secrets[name])
		if err != nil {
			return nil, usagef("%w", err)
		}
	}
	return opened, nil
}

// schemaURLs are where the schema of each type is served.
func (s *settings) schemaURLs(types []string) map[string]string {
	urls := map[string]string{}
	for _, typ := range types {
		urls[typ] = strings.TrimSuffix(s.http.publicURL, "/") + "/schemas/" + typ + ".json"
	}
	return urls
}

// prefixes are the subject prefixes of the sources, and of what is watched.
func (s *settings) prefixes() (map[string]string, error) {
	prefixes := map[string]string{}
	for name, source := range s.allSources() {
		prefix := source.Prefix
		if prefix == "" {
			prefix = name
		}
		if err := jetstream.CheckPrefix(prefix); err != nil {
			return nil, usagef("%s: source %s: %w", source.at, name, err)
		}
		prefixes[name] = prefix
	}
	if _, ok := prefixes[defaultSource]; !ok && (len(prefixes) == 0 || s.watches()) {
		prefixes[defaultSource] = defaultSource
	}
	return prefixes, nil
}

// prefixList lists the prefixes, each once.
func (s *settings) prefixList() ([]string, error) {
	prefixes, err := s.prefixes()
	return slices.Compact(slices.Sorted(maps.Values(prefixes))), err
}

// openIntake joins the sources, the schemas and the log.
func openIntake(sources map[string]*together.Source, set *schemas.Set, log relay.Log) *relay.Intake {
	in := &relay.Intake{Sources: map[string]relay.Opener{}, Check: set.CheckSent, Log: log}
	for name, source := range sources {
		in.Sources[name] = source
	}
	return in
}

func sortedNames[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
