package natsd

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/gofrs/flock"
	"golang.org/x/crypto/bcrypt"
)

// The users that are no teams. Both belong to the account of the streams.
const (
	RelayUser    = "together-relay"    // the relay itself
	OperatorUser = "together-operator" // people, and the command line
)

// Reserved says whether the name is one that no team may have.
func Reserved(user string) bool { return user == RelayUser || user == OperatorUser }

// Keys are the passwords of NATS users, in a directory that is closed to others. A user has a
// file NAME.hash, which a server compares with, and NAME.password until the password was
// taken. Any number of processes may use a directory at the same time.
type Keys struct{ dir string }

// ErrTaken says that a password was handed out already. Nobody can tell it again.
var ErrTaken = errors.New("the password was handed out already")

// KeysDir is where the keys lie, by a relay's data directory.
func KeysDir(dataDir string) string { return filepath.Join(dataDir, "keys") }

// OpenKeys returns the keys of a directory, which need not be there yet.
func OpenKeys(dir string) *Keys { return &Keys{dir} }

const hashEnd, passwordEnd = ".hash", ".password"

// users lists those who have a key, in order. Without the directory there are none.
func (k *Keys) users() ([]string, error) {
	entries, err := os.ReadDir(k.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read keys: %w", err)
	}
	var users []string
	for _, entry := range entries {
		if name, ok := strings.CutSuffix(entry.Name(), hashEnd); ok && userName.MatchString(name) {
			users = append(users, name)
		}
	}
	return users, nil
}

// Teams lists the users who have a key and are teams.
func (k *Keys) Teams() ([]string, error) {
	users, err := k.users()
	return slices.DeleteFunc(users, Reserved), err
}

// Files lists the directory and the files with passwords, for who looks at their modes.
func (k *Keys) Files() []string {
	paths, _ := filepath.Glob(filepath.Join(k.dir, "*"+passwordEnd)) // the pattern is a good one
	hashes, _ := filepath.Glob(filepath.Join(k.dir, "*"+hashEnd))
	return append(append([]string{k.dir}, paths...), hashes...)
}

// Ensure makes a password for each of the users who has none, and returns everybody's hash. What
// was made is on disk when it returns.
func (k *Keys) Ensure(users ...string) (hashes map[string]string, err error) {
	hashes = map[string]string{}
	var missing []string
	for _, user := range users {
		switch hashes[user], err = k.hash(user); {
		case errors.Is(err, fs.ErrNotExist):
			missing = append(missing, user)
		case err != nil:
			return nil, err
		}
	}
	if len(missing) == 0 {
		return hashes, nil
	}
	return hashes, k.locked(func() error {
		for _, user := range missing {
			// Another process may have made it meanwhile.
			if hashes[user], err = k.hash(user); errors.Is(err, fs.ErrNotExist) {
				hashes[user], err = k.make(user)
			}
			if err != nil {
				return err
			}
		}
		return FlushDir(k.dir)
	})
}

// hash returns the bcrypt hash of the user's password. The error is fs.ErrNotExist if there is
// none.
func (k *Keys) hash(user string) (string, error) {
	hash, err := k.read(user, hashEnd)
	if err != nil {
		return "", err
	}
	if _, err := bcrypt.Cost([]byte(hash)); err != nil {
		return "", fmt.Errorf("read keys: %s holds no bcrypt hash; delete it, and another password is made", k.path(user, hashEnd))
	}
	return hash, nil
}

// Password returns the user's password and leaves it where it is. The error is ErrTaken if it
// was taken, and fs.ErrNotExist if the user has no key.
func (k *Keys) Password(user string) (string, error) {
	hash, err := k.hash(user)
	if err != nil {
		return "", err
	}
	password, err := k.read(user, passwordEnd)
	if errors.Is(err, fs.ErrNotExist) {
		return "", ErrTaken
	}
	if err != nil {
		return "", err
	}
	if bcrypt.CompareHashAndPassword([]byte(hash), []byte(password)) != nil {
		return "", fmt.Errorf("read keys: %s and %s do not fit together; delete both, and another password is made", k.path(user, passwordEnd), k.path(user, hashEnd))
	}
	return password, nil
}

// PasswordFile is where the user's password lies until it is taken.
func (k *Keys) PasswordFile(user string) string { return k.path(user, passwordEnd) }

// Take returns the user's password and deletes it: only the hash is left, and the next call is
// ErrTaken. The error is fs.ErrNotExist if the user has no key.
func (k *Keys) Take(user string) (password string, err error) {
	err = k.locked(func() (err error) {
		if password, err = k.Password(user); err != nil {
			return err
		}
		return os.Remove(k.path(user, passwordEnd))
	})
	return password, err
}

// Renew makes another password for the user, whether there was one or not. The old one is worth
// nothing as soon as servers have read the new hash.
func (k *Keys) Renew(user string) error {
	return k.locked(func() error {
		if _, err := k.make(user); err != nil {
			return err
		}
		return FlushDir(k.dir)
	})
}

// Remove deletes what there is of the user's key, which may be nothing.
func (k *Keys) Remove(user string) error {
	return k.locked(func() error {
		for _, end := range []string{hashEnd, passwordEnd} {
			if err := os.Remove(k.path(user, end)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("remove the key of %s: %w", user, err)
			}
		}
		return FlushDir(k.dir)
	})
}

// make writes the password before its hash: a user with a hash has a password.
func (k *Keys) make(user string) (hash string, err error) {
	if !userName.MatchString(user) {
		return "", fmt.Errorf("make a key: %q is no name of a user", user)
	}
	password, hash, err := newPassword()
	if err != nil {
		return "", err
	}
	if err := WritePrivate(k.path(user, passwordEnd), []byte(password+"\n")); err != nil {
		return "", err
	}
	return hash, WritePrivate(k.path(user, hashEnd), []byte(hash+"\n"))
}

// newPassword is 256 random bits, and their hash at bcrypt's least cost. A higher one makes
// guessing slow, which nobody can do here; what it would slow down is a server to which many
// connect at the same time, or one that is flooded with wrong passwords.
func newPassword() (password, hash string, err error) {
	var bits [32]byte
	_, _ = rand.Read(bits[:]) // it never fails
	password = base64.RawURLEncoding.EncodeToString(bits[:])
	sum, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		return "", "", fmt.Errorf("make a key: %w", err)
	}
	return password, string(sum), nil
}

// userName is what a file may be named for.
var userName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,63}$`)

func (k *Keys) path(user, end string) string { return filepath.Join(k.dir, user+end) }

// read returns what stands in the file. One that is empty, as a power cut may leave it, is none.
func (k *Keys) read(user, end string) (string, error) {
	if !userName.MatchString(user) {
		return "", fmt.Errorf("read keys: %q is no name of a user", user)
	}
	text, err := os.ReadFile(k.path(user, end))
	if err != nil {
		return "", fmt.Errorf("read keys: %w", err)
	}
	if word := strings.TrimSpace(string(text)); word != "" {
		return word, nil
	}
	return "", fmt.Errorf("read keys: %s is empty: %w", k.path(user, end), fs.ErrNotExist)
}

// locked makes the directory and holds its lock while do runs. It blocks until it has it.
func (k *Keys) locked(do func() error) error {
	if err := os.MkdirAll(filepath.Dir(k.dir), 0o750); err != nil {
		return fmt.Errorf("make keys: %w", err)
	}
	if err := os.Mkdir(k.dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make keys: %w", err)
	}
	lock := flock.New(filepath.Join(k.dir, "lock"), flock.SetPermissions(0o600))
	if err := lock.Lock(); err != nil {
		return fmt.Errorf("lock keys: %w", err)
	}
	return errors.Join(do(), lock.Close())
}

// WritePrivate replaces the file in one step: whoever reads it, also after a power cut, finds the old one
// or the new one whole. It is readable for its owner alone.
func WritePrivate(path string, text []byte) (err error) {
	file, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // its mode is 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = file.Write(text)
	err = errors.Join(err, file.Sync(), file.Close())
	if err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		_ = os.Remove(file.Name())
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
