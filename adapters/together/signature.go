package together

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The headers that a source reads.
const (
	SignatureHeader = "X-Together-Signature"
	TimestampHeader = "X-Together-Timestamp"
)

// A keyring holds the active secrets of a source, each with a pool of HMAC states
// so that verifying allocates nothing.
type keyring struct {
	macs []*sync.Pool
}

func newKeyring(secrets [][]byte) *keyring {
	k := &keyring{}
	for _, secret := range secrets {
		k.macs = append(k.macs, &sync.Pool{New: func() any { return hmac.New(sha256.New, secret) }})
	}
	return k
}

// sum appends the HMAC-SHA256 of the parts under the i-th secret to dst.
func (k *keyring) sum(dst []byte, i int, parts ...[]byte) []byte {
	mac := k.macs[i].Get().(hash.Hash)
	defer k.macs[i].Put(mac)
	mac.Reset()
	for _, p := range parts {
		mac.Write(p)
	}
	return mac.Sum(dst)
}

// verify names the secret that made the signature: "1" for the first. Every secret
// is tried and compared in constant time, so the time taken tells nothing.
func (k *keyring) verify(signature string, parts ...[]byte) (proof string, ok bool) {
	var got, sum [sha256.Size]byte
	if !decodeSignature(&got, signature) {
		return "", false
	}
	for i := range k.macs {
		if hmac.Equal(got[:], k.sum(sum[:0], i, parts...)) && !ok {
			proof, ok = keyName(i), true
		}
	}
	return proof, ok
}

func keyName(i int) string { return strconv.Itoa(i + 1) }

// decodeSignature reads hex of either case, with or without the prefix "sha256=".
func decodeSignature(dst *[sha256.Size]byte, s string) bool {
	const prefix = "sha256="
	if len(s) == len(prefix)+hex.EncodedLen(len(dst)) && strings.EqualFold(s[:len(prefix)], prefix) {
		s = s[len(prefix):]
	}
	if len(s) != hex.EncodedLen(len(dst)) {
		return false
	}
	_, err := hex.Decode(dst[:], []byte(s))
	return err == nil
}

// Sign returns the headers that prove body to the source, made with its first
// secret as at the time now.
func (s *Source) Sign(body []byte, now time.Time) map[string]string {
	ring := s.ring.Load()
	header := map[string]string{}
	parts := [][]byte{body}
	if s.cfg.Timestamp {
		stamp := strconv.FormatInt(now.Unix(), 10)
		header[TimestampHeader] = stamp
		parts = [][]byte{[]byte(stamp), dot, body}
	}
	header[SignatureHeader] = hex.EncodeToString(ring.sum(nil, 0, parts...))
	return header
}

var dot = []byte(".")
