package natsd

import (
	"encoding/base64"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/bcrypt"
)

func newKeys(t testing.TB) *Keys {
	t.Helper()
	return OpenKeys(KeysDir(t.TempDir()))
}

func ensure(t testing.TB, k *Keys, users ...string) map[string]string {
	t.Helper()
	hashes, err := k.Ensure(users...)
	if err != nil {
		t.Fatal(err)
	}
	return hashes
}

func TestKeysAreMadeOnce(t *testing.T) {
	t.Parallel()
	k := newKeys(t)
	if users, err := k.users(); len(users) > 0 || err != nil {
		t.Errorf("without a directory the users are %v, %v", users, err)
	}
	if _, err := k.hash("ml"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Hash = %v", err)
	}
	hashes := ensure(t, k, "ml", "billing", OperatorUser)
	if again := ensure(t, k, "billing", "ml"); again["ml"] != hashes["ml"] || again["billing"] != hashes["billing"] {
		t.Errorf("%v became %v", hashes, again)
	}
	if hash, err := k.hash("ml"); err != nil || hash != hashes["ml"] {
		t.Errorf("Hash = %q, %v", hash, err)
	}
	if users, err := k.users(); !slices.Equal(users, []string{"billing", "ml", OperatorUser}) || err != nil {
		t.Errorf("users are %v, %v", users, err)
	}
	if teams, err := k.Teams(); !slices.Equal(teams, []string{"billing", "ml"}) || err != nil {
		t.Errorf("teams are %v, %v", teams, err)
	}
	seen := map[string]bool{}
	for user, hash := range hashes {
		for range 2 { // to look at it takes nothing away
			password, err := k.Password(user)
			if err != nil {
				t.Fatal(err)
			}
			if bits, err := base64.RawURLEncoding.DecodeString(password); err != nil || len(bits) != 32 {
				t.Errorf("the password has %d bytes, %v", len(bits), err)
			}
			if err := bcrypt.CompareHashAndPassword([]byte(hash), []byte(password)); err != nil {
				t.Error(err)
			}
			seen[password] = true
		}
	}
	if len(seen) != 3 {
		t.Errorf("there are %d passwords for three users", len(seen))
	}
}

func TestKeysAreClosedToOthers(t *testing.T) {
	t.Parallel()
	k := newKeys(t)
	ensure(t, k, "ml")
	for _, path := range k.Files() {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
	}
	entries, err := os.ReadDir(k.dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	if !slices.Equal(names, []string{"lock", "ml.hash", "ml.password"}) {
		t.Errorf("the directory holds %v", names)
	}
}

func TestPasswordIsTakenOnce(t *testing.T) {
	t.Parallel()
	k := newKeys(t)
	if _, err := k.Take("ml"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Take without a key = %v", err)
	}
	hashes := ensure(t, k, "ml")
	first, err := k.Take("ml")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := k.Take("ml"); !errors.Is(err, ErrTaken) {
			t.Errorf("Take = %v", err)
		}
		if again := ensure(t, k, "ml"); again["ml"] != hashes["ml"] {
			t.Error("a password that was taken was made again")
		}
	}
	if err := k.Renew("ml"); err != nil {
		t.Fatal(err)
	}
	second, err := k.Take("ml")
	if err != nil || second == first {
		t.Errorf("after Renew the password is %v, the same: %v", err, second == first)
	}
	hash, err := k.hash("ml")
	if err != nil || bcrypt.CompareHashAndPassword([]byte(hash), []byte(first)) == nil || bcrypt.CompareHashAndPassword([]byte(hash), []byte(second)) != nil {
		t.Errorf("the hash is not that of the new password alone, %v", err)
	}
	for range 2 {
		if err := k.Remove("ml"); err != nil {
			t.Fatal(err)
		}
	}
	if users, err := k.users(); len(users) > 0 || err != nil {
		t.Errorf("users are %v, %v", users, err)
	}
}

// Many processes make the keys of the same users: each user has one, and it fits its hash.
func TestKeysMadeByMany(t *testing.T) {
	t.Parallel()
	dir := KeysDir(t.TempDir())
	var all sync.WaitGroup
	got := make([]map[string]string, 8)
	for i := range got {
		all.Go(func() {
			hashes, err := OpenKeys(dir).Ensure("a", "b", "c")
			if err != nil {
				t.Error(err)
			}
			got[i] = hashes
		})
	}
	all.Wait()
	for _, user := range []string{"a", "b", "c"} {
		for i := range got {
			if got[i][user] == "" || got[i][user] != got[0][user] {
				t.Errorf("%s has the hash %q for one and %q for another", user, got[0][user], got[i][user])
			}
		}
		if _, err := OpenKeys(dir).Take(user); err != nil {
			t.Error(err)
		}
	}
}

func TestKeysThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	k := newKeys(t)
	for _, user := range []string{"", "..", "a/b", "A", "a.b", "a b", "../x", strings.Repeat("x", 65)} {
		if _, err := k.Ensure(user); err == nil {
			t.Errorf("%q has a key", user)
		}
		if k.Renew(user) == nil {
			t.Errorf("%q has another key", user)
		}
	}
	ensure(t, k, "ml", "billing")
	for file, text := range map[string]string{"ml.hash": "not a hash", "billing.password": "not the password"} {
		if err := os.WriteFile(filepath.Join(k.dir, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := k.Ensure("ml"); err == nil || !strings.Contains(err.Error(), "ml.hash") || strings.Contains(err.Error(), "not a hash") {
		t.Errorf("Ensure = %v", err)
	}
	if _, err := k.Take("billing"); err == nil || !strings.Contains(err.Error(), "billing.password") || strings.Contains(err.Error(), "not the password") {
		t.Errorf("Take = %v", err)
	}

	// A power cut may leave an empty file.
	if err := os.WriteFile(filepath.Join(k.dir, "ml.hash"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ensure(t, k, "ml")
	if _, err := k.Take("ml"); err != nil {
		t.Error(err)
	}

	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{file, filepath.Join(file, "below")} {
		if _, err := OpenKeys(dir).Ensure("ml"); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("Ensure in %s = %v", dir, err)
		}
	}
}
