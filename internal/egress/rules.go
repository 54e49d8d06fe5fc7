package egress

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// Rules are what a session may reach. The zero value is nothing. Check must
// have been good before they are used.
type Rules struct {
	// Allow lists what may be reached; the first rule that fits counts.
	Allow []Rule `json:"allow,omitempty"`
	// Secrets are put into requests to hosts that Allow names.
	Secrets []Secret `json:"secrets,omitempty"`
	// MaxBytes bounds what the session moves in both directions together; 0 is
	// no bound.
	MaxBytes int64 `json:"max_bytes,omitempty"`
}

// Rule names hosts.
type Rule struct {
	// ID is what decisions and refusals quote; "" means the pattern.
	ID string `json:"id,omitempty"`
	// Host is a name, *.name (its subdomains, not itself), an address or a
	// range of addresses (CIDR), with :port behind it or without, which means
	// the ports 80 and 443. IPv6 goes in brackets: [fd00::1]:8080, [fd00::/8].
	Host string `json:"host"`
	// Private lets the hosts have addresses in private networks and on this
	// machine. What answers at link-local addresses (the metadata of clouds)
	// needs a rule of its own that names the address.
	Private bool `json:"private,omitempty"`
}

// Secret is a value that hosts get and the session does not. The session has
// the placeholder, in the variable Env.
type Secret struct {
	// Name is what logs and the default placeholder say: A-Z, a-z, 0-9, _ and -.
	Name string `json:"name"`
	// Hosts are those that get it, each host or host:port (443 when it is
	// left out), over TLS only.
	Hosts []string `json:"hosts"`
	// Env is the variable that holds the placeholder inside; "" for none.
	Env string `json:"env,omitempty"`
	// Placeholder stands for the value inside; "" means one made of the name.
	// At least 12 printable ASCII characters without spaces, quotes or
	// backslashes.
	Placeholder string `json:"placeholder,omitempty"`
	// Header, when set, is put on every request to the hosts, in place of what
	// the session says there; the value goes nowhere else then. When it is
	// empty the placeholder is replaced wherever a header has it, also inside
	// Basic credentials.
	Header string `json:"header,omitempty"`
	// Template is Header's value; {secret} in it is the secret. "" means
	// "{secret}".
	Template string `json:"template,omitempty"`
	// Query and Body replace the placeholder there too. A session can then
	// make the host store the secret where somebody else reads it.
	Query bool `json:"query,omitempty"`
	Body  bool `json:"body,omitempty"`
	// Value is the secret. It is no part of any printed or encoded form.
	Value Hidden `json:"-"`
}

// Hidden is text that no log, error or encoding shows.
type Hidden struct{ text string }

// Hide hides text.
func Hide(text string) Hidden { return Hidden{text} }

const hiddenShown = "[hidden]"

// String does not show the text.
func (h Hidden) String() string { return hiddenShown }

// GoString does not show the text.
func (h Hidden) GoString() string { return hiddenShown }

// Format does not show the text, whatever the verb.
func (h Hidden) Format(f fmt.State, _ rune) { fmt.Fprint(f, hiddenShown) }

// LogValue does not show the text.
func (h Hidden) LogValue() slog.Value { return slog.StringValue(hiddenShown) }

// MarshalText does not show the text.
func (h Hidden) MarshalText() ([]byte, error) { return []byte(hiddenShown), nil }

// Stand is what stands for the secret inside.
func (s Secret) Stand() string {
	if s.Placeholder != "" {
		return s.Placeholder
	}
	sum := sha256.Sum256([]byte("berth placeholder\x00" + s.Name))
	return "berth-secret-" + s.Name + "-" + hex.EncodeToString(sum[:8])
}

// Env are the variables that the session gets: placeholders.
func (r Rules) Env() map[string]string {
	env := map[string]string{}
	for _, s := range r.Secrets {
		if s.Env != "" {
			env[s.Env] = s.Stand()
		}
	}
	return env
}

// Check says what is wrong with the rules; nil when nothing is.
func (r Rules) Check() error {
	_, err := compile(r)
	return err
}

// rule is a Rule that has been read.
type rule struct {
	id      string
	host    string // the name; with sub the parent of the names that fit
	sub     bool
	prefix  netip.Prefix // valid in a rule of addresses
	port    uint16       // 0: 80 and 443
	private bool
}

// table is Rules, read.
type table struct {
	rules   []rule
	secrets []Secret
	holders map[string][]int // target → secrets, by index
	bytes   int64
}

func compile(r Rules) (*table, error) {
	t := &table{holders: map[string][]int{}, bytes: r.MaxBytes}
	for i, in := range r.Allow {
		out, err := readRule(in)
		if err != nil {
			return nil, fmt.Errorf("network rule %d: %w", i+1, err)
		}
		t.rules = append(t.rules, out)
	}
	stands := map[string]string{}
	for _, s := range r.Secrets {
		if err := t.addSecret(s); err != nil {
			return nil, fmt.Errorf("secret %s: %w", quoted(s.Name), err)
		}
		for stand, name := range stands {
			if strings.Contains(stand, s.Stand()) || strings.Contains(s.Stand(), stand) {
				return nil, fmt.Errorf("secret %s: its placeholder is like that of %s", quoted(s.Name), quoted(name))
			}
		}
		stands[s.Stand()] = s.Name
	}
	return t, nil
}

// readRule reads a pattern. Names go through the parser of targets.
func readRule(in Rule) (rule, error) {
	out := rule{id: in.ID, private: in.Private}
	if out.id == "" {
		out.id = in.Host
	}
	if len(out.id) > 200 || strings.ContainsFunc(out.id, func(c rune) bool { return c < ' ' || c == 0x7f }) {
		return out, errors.New("its id is too long or holds control characters")
	}
	if strings.Contains(in.Host, "/") {
		return out, out.readRange(in.Host)
	}
	host, sub := strings.CutPrefix(in.Host, "*.")
	const unsaid = 1 // a port that no pattern names without meaning it is told by splitPort
	t, err := ParseTarget(host, unsaid)
	if err != nil {
		return out, err
	}
	if _, digits, _ := splitPort(host); digits != "" {
		out.port = t.Port
	}
	if t.Addr.IsValid() {
		if sub {
			return out, fmt.Errorf("%s: an address has no subdomains", quoted(in.Host))
		}
		out.prefix = netip.PrefixFrom(t.Addr, t.Addr.BitLen())
		return out, nil
	}
	out.host, out.sub = t.Host, sub
	return out, nil
}

// readRange reads a/n, [a/n], a/n:port and [a/n]:port.
func (r *rule) readRange(s string) error {
	bad := fmt.Errorf("%s is no range of addresses; write 10.1.0.0/16, 10.1.0.0/16:8080 or [fd00::/8]:8080", quoted(s))
	text, digits := s, ""
	if inner, ok := strings.CutPrefix(s, "["); ok {
		end := strings.IndexByte(inner, ']')
		if end < 0 {
			return bad
		}
		text, digits = inner[:end], inner[end+1:]
		if digits != "" {
			if digits[0] != ':' || len(digits) == 1 {
				return bad
			}
			digits = digits[1:]
		}
	} else if strings.Count(s, ":") == 1 {
		text, digits, _ = strings.Cut(s, ":")
		if digits == "" {
			return bad
		}
	}
	p, err := netip.ParsePrefix(text)
	if err != nil || p.Addr().Is4In6() {
		return bad
	}
	if p != p.Masked() {
		return fmt.Errorf("%s has bits beyond its length; write %s", quoted(s), p.Masked())
	}
	if digits != "" {
		if r.port, err = parsePort(digits); err != nil {
			return err
		}
	}
	r.prefix = p
	return nil
}

// fitsPort says whether a port is within the rule.
func (r rule) fitsPort(port uint16) bool {
	if r.port == 0 {
		return port == 80 || port == 443
	}
	return port == r.port
}

// fitsHost says whether the rule names the host, whatever the port.
func (r rule) fitsHost(t Target) bool {
	switch {
	case r.prefix.IsValid():
		return t.Addr.IsValid() && r.prefix.Contains(t.Addr)
	case t.Addr.IsValid():
		return false
	case r.sub:
		return strings.HasSuffix(t.Host, "."+r.host)
	}
	return t.Host == r.host
}

// find gives the rule that allows a target. near is one that names its host
// but another port, when none allows it.
func (t *table) find(to Target) (allows, near *rule) {
	for i := range t.rules {
		r := &t.rules[i]
		if !r.fitsHost(to) {
			continue
		}
		if r.fitsPort(to.Port) {
			return r, nil
		}
		if near == nil {
			near = r
		}
	}
	return nil, near
}

// names says whether a rule of addresses names this one, which is not public,
// and not only as a part of something larger that holds public ones too.
func (t *table) names(a netip.Addr, port uint16) bool {
	least := specialBits(a)
	return slices.ContainsFunc(t.rules, func(r rule) bool {
		return r.prefix.IsValid() && r.prefix.Contains(a) && r.prefix.Bits() >= least && r.fitsPort(port)
	})
}

// holds gives the secrets of a target.
func (t *table) holds(to Target) []Secret {
	var all []Secret
	for _, i := range t.holders[to.String()] {
		all = append(all, t.secrets[i])
	}
	return all
}

var (
	secretName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
	variable   = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,127}$`)
)

// ownHeaders are those that say how a request travels; no secret goes there.
var ownHeaders = append([]string{"Host", "Content-Length", "Accept-Encoding", "Expect", "Range", "If-Range"}, hopHeaders...)

const (
	minStand  = 12
	minSecret = 8
	maxSecret = 16 << 10
)

func (t *table) addSecret(s Secret) error {
	switch {
	case !secretName.MatchString(s.Name):
		return errors.New("a secret's name is made of letters, digits, _ and -")
	case len(s.Hosts) == 0:
		return errors.New("no host is named that gets it")
	case s.Env != "" && !variable.MatchString(s.Env):
		return fmt.Errorf("%s is no name of a variable", quoted(s.Env))
	case len(s.Value.text) < minSecret || len(s.Value.text) > maxSecret:
		return fmt.Errorf("its value has not between %d and %d bytes", minSecret, maxSecret)
	case strings.ContainsFunc(s.Value.text, func(c rune) bool { return c < ' ' || c == 0x7f }):
		return errors.New("its value holds a line break or another control character")
	case !plain(s.Stand()) || len(s.Stand()) < minStand || len(s.Stand()) > 256:
		return fmt.Errorf("a placeholder has %d to 256 printable characters without spaces, quotes and backslashes", minStand)
	case strings.Contains(s.Stand(), s.Value.text) || strings.Contains(s.Value.text, s.Stand()):
		return errors.New("its value and its placeholder hold one another")
	case s.Header == "" && s.Template != "":
		return errors.New("a template needs a header")
	case s.Header != "" && !isToken(s.Header):
		return fmt.Errorf("%s is no name of a header", quoted(s.Header))
	case slices.ContainsFunc(ownHeaders, func(h string) bool { return strings.EqualFold(h, s.Header) }):
		return fmt.Errorf("the header %s says how a request travels and takes no secret", s.Header)
	case s.Template != "" && !strings.Contains(s.Template, "{secret}"):
		return errors.New("its template lacks {secret}")
	case strings.ContainsFunc(s.Template, func(c rune) bool { return c < ' ' || c == 0x7f }):
		return errors.New("its template holds a line break or another control character")
	}
	i := len(t.secrets)
	t.secrets = append(t.secrets, s)
	for _, host := range s.Hosts {
		to, err := ParseTarget(host, 443)
		if err != nil {
			return err
		}
		if r, _ := t.find(to); r == nil {
			return fmt.Errorf("no rule allows its host %s; add one", to)
		}
		if !slices.Contains(t.holders[to.String()], i) {
			t.holders[to.String()] = append(t.holders[to.String()], i)
		}
	}
	return nil
}

// plain says that text means itself in headers, URLs' queries and JSON alike.
func plain(s string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte("\"'`\\<>&%{}", c) >= 0 {
			return false
		}
	}
	return true
}

// isToken says that text can name a header or a method (RFC 9110, token).
func isToken(s string) bool {
	if s == "" {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return true
}

// hopHeaders are for one hop only and never go further.
var hopHeaders = []string{
	"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization",
	"Te", "Trailer", "Transfer-Encoding", "Upgrade",
}
