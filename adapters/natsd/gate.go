package natsd

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/rs/zerolog"
	"golang.org/x/crypto/bcrypt"
)

// A gate decides who may connect to the server, and as whom.
//
// As long as there never was a team it is open: everybody may do everything, without a password.
// Once a team is named, or has a key, it is closed: only the relay, the operator and the teams that
// are named come in, each with a password, and each team into an account of its own.
type gate struct {
	keys     *Keys
	streams  []string
	log      zerolog.Logger
	password string        // of the relay's own connection; it is never written
	nobody   []byte        // a hash that is compared with when there is no such user
	slots    chan struct{} // comparisons that may run at the same time
	exposed  []string      // addresses that others than this machine can reach
	most     int           // connections of a team at one time
	waysBack int           // from which on somebody is in the way
	unread   atomic.Int64  // bytes that a team may leave unread
	tick     *time.Ticker  // when it is looked what teams have; it stands still before there is one

	setting  sync.Mutex // held while the teams are set
	ns       *server.Server
	teams    []string                   // nil is all that have a key
	accounts map[string]*server.Account // by team, those that are complete
	ready    chan struct{}              // closed when the teams were set once
	read     time.Time                  // when the keys were read
	changed  time.Time                  // when the directory had last changed by then
	sent     map[uint64]int64           // messages by connection, as long as there are too many ways back

	mu     sync.Mutex
	open   bool
	logins map[string]*login // by user
	in     map[uint64]*login // by connection, some of which may be gone; nil is one that was let in without a password
	prune  int               // how many there may be before those that are gone are forgotten
}

// A login is a user with a password.
type login struct {
	user server.User
	hash string
	team bool

	// In the hands of the gate's lock.
	seen [sha256.Size]byte // of the password that was right the last time
	out  time.Time         // until when it does not come in, whatever the password
}

// newGate returns one at which all but the relay itself wait until the teams are set.
func newGate(keys *Keys, streams []string, log zerolog.Logger) (*gate, error) {
	password, _, err := newPassword()
	if err != nil {
		return nil, err
	}
	_, nobody, err := newPassword()
	if err != nil {
		return nil, err
	}
	g := &gate{
		keys: keys, streams: streams, log: log, password: password, nobody: []byte(nobody), most: maxConnections, waysBack: mostWaysBack,
		slots: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)), ready: make(chan struct{}), accounts: map[string]*server.Account{}, in: map[uint64]*login{},
	}
	g.unread.Store(mostUnread)
	g.tick = time.NewTicker(thinEvery)
	g.tick.Stop()
	g.logins = map[string]*login{RelayUser: g.relay()}
	return g, nil
}

func (g *gate) relay() *login {
	return &login{user: server.User{Username: RelayUser}, seen: sha256.Sum256([]byte(g.password))}
}

// patience is how long a client is kept waiting at the start.
const patience = 2 * time.Second

// maxConnections is how many connections a team may have at one time.
const maxConnections = 1000

// hesitation is how long a refusal takes at least. A client whose connection is closed while it still
// writes does not read why.
const hesitation = 10 * time.Millisecond

// Check says whether a client may come in, and gives it its account and its rights. NATS calls it
// for each connection, over TCP and WebSocket alike. It blocks while the password is compared.
func (g *gate) Check(c server.ClientAuthentication) bool {
	if c.Kind() == server.CLIENT && g.admit(c) {
		return true
	}
	<-time.After(hesitation)
	return false
}

func (g *gate) admit(c server.ClientAuthentication) bool {
	name, password := c.GetOpts().Username, c.GetOpts().Password
	if name != RelayUser {
		select {
		case <-g.ready:
		case <-time.After(patience): // the client has given up by then
		}
	}
	g.mu.Lock()
	one, open := g.logins[name], g.open
	g.mu.Unlock()
	sum := sha256.Sum256([]byte(password))
	if !g.fits(one, sum, password, open) {
		one = nil
	}

	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case one != nil && g.logins[name] != one:
		return false // the password was changed meanwhile, or the team was taken out
	case one != nil && time.Now().Before(one.out):
		return false
	case one != nil && one.team && one.user.Account.NumLocalConnections() >= g.most:
		g.log.Warn().Str("team", name).Int("connections", g.most).Msg("the team has all the connections that it may have; one more is refused")
		return false
	case one != nil:
		one.seen = sum
		c.RegisterUser(&one.user)
	case g.open:
		c.RegisterUser(&server.User{Username: "anonymous", Account: g.ns.GlobalAccount()})
	default:
		return false
	}
	g.in[c.GetID()] = one
	if len(g.in) > g.prune {
		for id := range g.in {
			if g.ns.GetClient(id) == nil {
				delete(g.in, id)
			}
		}
		g.prune = 2*len(g.in) + 64
	}
	return true
}

// fits says whether the password is the login's. That of a user who has been here costs next to
// nothing; any other is compared by its hash, half of the processors at most do that, and a user
// who is not there takes as long as a wrong password.
func (g *gate) fits(one *login, sum [sha256.Size]byte, password string, open bool) bool {
	hash := g.nobody
	if one != nil {
		g.mu.Lock()
		seen := one.seen
		g.mu.Unlock()
		if subtle.ConstantTimeCompare(seen[:], sum[:]) == 1 {
			return true
		}
		if one.hash != "" {
			hash = []byte(one.hash)
		}
	}
	if open {
		return false // there is nothing to be found out
	}
	g.slots <- struct{}{}
	defer func() { <-g.slots }()
	return bcrypt.CompareHashAndPassword(hash, []byte(password)) == nil && one != nil && one.hash != ""
}

// set makes the teams those that may come in, with the keys as they are now, and closes the
// connections of those who may not any more.
func (g *gate) set(teams []string) error {
	g.setting.Lock()
	defer g.setting.Unlock()
	old := g.teams
	g.teams = slices.Clone(teams)
	if err := g.apply(); err != nil {
		g.teams = old
		return err
	}
	select {
	case <-g.ready:
	default:
		close(g.ready)
	}
	return nil
}

// look sets the teams again if their keys have changed since, and looks that no team takes too much.
func (g *gate) look() error {
	g.setting.Lock()
	defer g.setting.Unlock()
	select {
	case <-g.ready:
	default:
		return nil
	}
	if err := g.relieve(); err != nil {
		return err
	}
	// What changes right after it was read may not be told by the time of the change.
	if changed, err := g.keys.changed(); err == nil && changed.Equal(g.changed) && g.read.Sub(changed).Abs() > time.Second {
		return nil
	}
	return g.apply()
}

func (g *gate) apply() error {
	changed, err := g.keys.changed()
	if err != nil {
		return err
	}
	read := time.Now()
	keyed, err := g.keys.Teams()
	if err != nil {
		return err
	}
	teams := g.teams
	if teams == nil {
		teams = keyed
	}
	open := len(teams) == 0 && len(keyed) == 0
	hashes := map[string]string{}
	if !open {
		if hashes, err = g.keys.Ensure(append([]string{OperatorUser}, teams...)...); err != nil {
			return err
		}
	}
	next := map[string]*login{RelayUser: g.relay()}
	for name, hash := range hashes {
		one := &login{user: server.User{Username: name, Account: g.ns.GlobalAccount()}, hash: hash}
		if name != OperatorUser {
			one.team = true
			if one.user.Account, err = g.account(name); err != nil {
				return fmt.Errorf("make the account of team %s: %w", name, err)
			}
			rights := rightsOf(name, g.streams)
			one.user.Permissions = &server.Permissions{
				Publish:   &server.SubjectPermission{Allow: rights.Send()},
				Subscribe: &server.SubjectPermission{Allow: rights.Hear},
			}
		}
		next[name] = one
	}
	g.read, g.changed = read, changed
	g.swap(next, open)
	return nil
}

// swap puts the logins in force, and closes the connections whose login is not among them.
func (g *gate) swap(next map[string]*login, open bool) {
	g.mu.Lock()
	for name, one := range next {
		if old := g.logins[name]; old != nil && old.hash == one.hash {
			next[name] = old
		}
	}
	opens, closes := open && !g.open, !open && g.open
	g.logins, g.open = next, open
	var out []uint64
	for id, one := range g.in {
		if one == nil && !open || one != nil && next[one.user.Username] != one {
			out = append(out, id)
			delete(g.in, id)
		}
	}
	g.mu.Unlock()

	if !open {
		g.tick.Reset(thinEvery)
	}
	for _, id := range out {
		_ = g.ns.DisconnectClientByID(id) // it may be gone
	}
	if opens {
		for _, address := range g.exposed {
			warnExposed(address, g.log)
		}
	}
	if closes {
		g.log.Info().Msg("there are teams now: the embedded NATS server asks for a password from here on")
	}
}

// changed is when the directory of the keys last changed; the zero time is that it is not there.
func (k *Keys) changed() (time.Time, error) {
	info, err := os.Stat(k.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("look at keys: %w", err)
	}
	return info.ModTime(), nil
}
