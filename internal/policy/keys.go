package policy

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/berthdev/berth/internal/egress"
	"github.com/berthdev/berth/internal/sandbox"
)

// How many entries a list may have.
const (
	maxHosts     = 1000
	maxSecrets   = 64
	maxVariables = 256
	maxMounts    = 64
	maxText      = 128 << 10 // of one variable
)

// policy reads the whole file.
func (v value) policy(p *Policy) error {
	err := v.mapping(
		field{"image", func(c value) (err error) { p.Image, err = c.image(); return err }},
		field{"limits", func(c value) error { return c.limits(p) }},
		field{"network", func(c value) error { return c.network(&p.Network) }},
		field{"secrets", func(c value) error {
			return c.list(maxSecrets, "secrets", func(e value) error { return e.secret(p) })
		}},
		field{"env", func(c value) error { return c.env(p) }},
		field{"mounts", func(c value) error {
			return c.list(maxMounts, "mounts", func(e value) error { return e.mount(p) })
		}},
		field{"user", func(c value) (err error) { p.User, err = c.user(); return err }},
	)
	if err != nil {
		return err
	}
	return p.reach(v)
}

// override reads a flag's value for a key that is no limit.
func (v value) override(p *Policy) (err error) {
	switch v.path {
	case "image":
		p.Image, err = v.image()
	case "user":
		p.User, err = v.user()
	default:
		err = fmt.Errorf("policy: no flag sets %s", v.path)
	}
	return err
}

func (v value) image() (string, error) {
	s, err := v.text("an image: a reference, a directory or an archive")
	if err == nil && (len(s) > 1024 || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f })) {
		return "", v.bad("give a reference such as docker.io/library/python:3.13, a directory or an archive", "is %s", quote(s))
	}
	return s, err
}

// limitNames are the keys of limits, output and best_effort beside them.
var limitNames = []sandbox.Limit{
	sandbox.LimitCPU, sandbox.LimitMemory, sandbox.LimitPIDs, sandbox.LimitDisk,
	sandbox.LimitOpenFiles, sandbox.LimitCallTime, sandbox.LimitSessionTime,
}

// limits reads limits. Each that is named must hold, but for those under
// best_effort.
func (v value) limits(p *Policy) error {
	var waived []sandbox.Limit
	fields := []field{
		{"output", func(c value) error { return c.limit(p, "output") }},
		{"best_effort", func(c value) error {
			return c.list(len(limitNames), "limits", func(e value) error {
				name, err := e.text("a limit's name")
				if err != nil {
					return err
				}
				if !slices.Contains(limitNames, sandbox.Limit(name)) {
					return e.bad("name one of "+joined(limitNames), "is %s, which is no limit", quote(name))
				}
				waived = append(waived, sandbox.Limit(name))
				return nil
			})
		}},
	}
	for _, l := range limitNames {
		fields = append(fields, field{string(l), func(c value) error { return c.limit(p, string(l)) }})
	}
	if err := v.mapping(fields...); err != nil {
		return err
	}
	for _, l := range waived {
		i := slices.Index(p.Limits.Required, l)
		if i < 0 {
			return v.as(v.path+".best_effort").bad("give it a value too, or leave it out", "names %s, which has no value", l)
		}
		p.Limits.Required = slices.Delete(p.Limits.Required, i, i+1)
	}
	return nil
}

func joined(names []sandbox.Limit) string {
	s := make([]string, len(names))
	for i, n := range names {
		s[i] = string(n)
	}
	return strings.Join(s, ", ")
}

// limit reads one limit, and notes that it must hold.
func (v value) limit(p *Policy, name string) (err error) {
	l := &p.Limits
	switch sandbox.Limit(name) {
	case "output":
		var n int64
		n, err = v.size(1<<10, 16<<20)
		p.Output = int(n)
		return err
	case sandbox.LimitCPU:
		l.CPU, err = v.processors()
	case sandbox.LimitMemory:
		l.Memory, err = v.size(16<<20, 1<<50)
	case sandbox.LimitDisk:
		l.Disk, err = v.size(8<<20, 1<<50)
	case sandbox.LimitPIDs:
		l.PIDs, err = v.count(8, 1<<22)
	case sandbox.LimitOpenFiles:
		l.OpenFiles, err = v.count(64, 1<<20)
	case sandbox.LimitCallTime:
		l.CallTime, err = v.duration(time.Second, 24*time.Hour)
	case sandbox.LimitSessionTime:
		l.SessionTime, err = v.duration(time.Second, 365*24*time.Hour)
	default:
		return fmt.Errorf("policy: no limit %s", name)
	}
	if err == nil && !slices.Contains(l.Required, sandbox.Limit(name)) {
		l.Required = append(l.Required, sandbox.Limit(name))
		slices.Sort(l.Required)
	}
	return err
}

func (v value) network(n *Network) error {
	const forms = "none, host, or allow with a list of hosts"
	if v.node.Kind == yaml.ScalarNode && v.node.Tag != "!!null" {
		switch v.node.Value {
		case "none":
			*n = Network{}
		case "host":
			*n = Network{Mode: sandbox.NetworkHost}
		default:
			return v.bad("give "+forms, "is %s", quote(v.node.Value))
		}
		return nil
	}
	if err := v.kind(yaml.MappingNode, forms); err != nil {
		return err
	}
	if len(v.node.Content) == 0 {
		return v.bad("give "+forms, "is empty")
	}
	return v.mapping(field{"allow", func(c value) error { return c.allow(n) }})
}

func (v value) allow(n *Network) error {
	*n = Network{Mode: sandbox.NetworkAllow}
	return v.list(maxHosts, "hosts", func(e value) error {
		r, err := e.rule()
		if err == nil {
			n.Allow = append(n.Allow, r)
		}
		return err
	})
}

func (v value) rule() (r egress.Rule, err error) {
	if v.node.Kind == yaml.ScalarNode {
		r.Host, err = v.text("a host such as pypi.org or *.pythonhosted.org")
	} else {
		err = v.mapping(
			field{"host", func(c value) (err error) { r.Host, err = c.text("a host"); return err }},
			field{"name", func(c value) (err error) { r.ID, err = c.text("a name for the rule"); return err }},
			field{"private", func(c value) (err error) { r.Private, err = c.truth(); return err }},
		)
	}
	if err != nil {
		return r, err
	}
	if r.Host == "" {
		return r, v.bad("give its host", "names no host")
	}
	if _, path, ok := strings.Cut(r.Host, "://"); ok {
		host, _, _ := strings.Cut(path, "/")
		return r, v.bad("give the host alone, "+quote(host), "is %s, an address of a page", quote(r.Host))
	}
	if err := (egress.Rules{Allow: []egress.Rule{r}}).Check(); err != nil {
		return r, v.bad("give a host such as pypi.org, *.pythonhosted.org, db.test:5432 or 10.1.0.0/16, without scheme or path",
			"cannot be a rule: %v", errors.Unwrap(err))
	}
	return r, nil
}

func (v value) secret(p *Policy) error {
	var s Secret
	text := func(to *string, what string) func(value) error {
		return func(c value) (err error) { *to, err = c.text(what); return err }
	}
	truth := func(to *bool) func(value) error {
		return func(c value) (err error) { *to, err = c.truth(); return err }
	}
	err := v.mapping(
		field{"env", func(c value) (err error) { s.Env, err = c.variable(); return err }},
		field{"hosts", func(c value) error {
			return c.list(maxHosts, "hosts", func(e value) error {
				h, err := e.text("a host")
				s.Hosts = append(s.Hosts, h)
				return err
			})
		}},
		field{"from_env", func(c value) (err error) { s.FromEnv, err = c.variable(); return err }},
		field{"from_file", func(c value) (err error) { s.FromFile, err = c.absolute("a file"); return err }},
		field{"name", text(&s.Name, "a name")},
		field{"placeholder", text(&s.Placeholder, "what stands for the value inside")},
		field{"header", text(&s.Header, "a header's name")},
		field{"template", text(&s.Template, "the header's value, with {secret} in it")},
		field{"query", truth(&s.Query)},
		field{"body", truth(&s.Body)},
		field{"value", func(c value) error {
			return c.bad("name where it is found, by from_env or from_file", "would keep the secret in the policy")
		}},
	)
	if s.Name == "" {
		s.Name = s.Env
	}
	switch {
	case err != nil:
		return err
	case s.Name == "":
		return v.bad("give env, the variable that holds its placeholder inside, or a name", "has no variable")
	case len(s.Hosts) == 0:
		return v.bad("give hosts, to which it may be sent", "has no host")
	case (s.FromEnv == "") == (s.FromFile == ""):
		return v.bad("give from_env or from_file, one of the two", "does not say where its value is found")
	case slices.ContainsFunc(p.Secrets, func(o Secret) bool { return o.Name == s.Name || o.Env != "" && o.Env == s.Env }):
		return v.bad("use another name and variable", "is called %s, as one before it is", s.Name)
	}
	p.Secrets = append(p.Secrets, s)
	return nil
}

// reach checks that what secrets are for can be reached, and that no two
// values are meant for one variable.
func (p *Policy) reach(v value) error {
	rules := egress.Rules{Allow: p.Network.Allow}
	for i, s := range p.Secrets {
		at := v.as(fmt.Sprintf("secrets[%d]", i))
		at.flag = false
		if _, twice := p.Env[s.Env]; twice && s.Env != "" {
			return at.bad("keep one of them", "and env both set %s", s.Env)
		}
		s.Value = egress.Hide("what a secret may be")
		rules.Secrets = []egress.Secret{s.Secret}
		if err := rules.Check(); err != nil {
			return at.bad("correct it; its hosts belong under network.allow too", "cannot be: %v", errors.Unwrap(err))
		}
	}
	return nil
}

func (v value) env(p *Policy) error {
	if err := v.kind(yaml.MappingNode, "a mapping of names to values"); err != nil {
		return err
	}
	if n := len(v.node.Content) / 2; n > maxVariables {
		return v.bad("shorten it", "has %d variables, more than %d", n, maxVariables)
	}
	p.Env = map[string]string{}
	return v.each(func(key string, c value) error {
		if !variableForm.MatchString(key) {
			return c.bad("use letters, digits and _", "is no name of a variable")
		}
		if err := c.kind(yaml.ScalarNode, "text, in quotes if it may be empty"); err != nil {
			return err
		}
		if s := c.node.Value; len(s) > maxText || strings.ContainsRune(s, 0) {
			return c.bad("give a shorter text without NUL", "is not a value that a variable can have")
		}
		p.Env[key] = c.node.Value
		return nil
	})
}

func (v value) mount(p *Policy) error {
	m := sandbox.Mount{ReadOnly: true}
	var source, target value
	err := v.mapping(
		field{"source", func(c value) (err error) {
			source = c
			m.Source, err = c.absolute("a directory of this machine")
			return err
		}},
		field{"target", func(c value) (err error) {
			target = c
			m.Target, err = c.absolute("where it shall be inside")
			return err
		}},
		field{"read_only", func(c value) (err error) { m.ReadOnly, err = c.truth(); return err }},
	)
	switch {
	case err != nil:
		return err
	case m.Source == "":
		return v.bad("give the directory of this machine that it shows", "has no source")
	case m.Target == "":
		return v.bad("give the absolute path inside", "has no target")
	}
	if st, err := os.Stat(m.Source); err != nil || !st.IsDir() {
		return source.bad("name a directory that is there", "is %s, which is no directory of this machine", quote(m.Source))
	}
	if own := sandbox.Reserved(m.Target); own != "" {
		return target.bad("choose another place, such as /data", "is %s: %s is the sandbox's own", quote(m.Target), own)
	}
	for _, other := range p.Mounts {
		if other.Target == m.Target || strings.HasPrefix(m.Target, other.Target+"/") || strings.HasPrefix(other.Target, m.Target+"/") {
			return target.bad("choose places beside each other", "is %s, and another mount is at %s", quote(m.Target), other.Target)
		}
	}
	p.Mounts = append(p.Mounts, m)
	return nil
}

var userForm = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`)

// user reads a name, a number, or both.
func (v value) user() (sandbox.User, error) {
	var u sandbox.User
	number := func(c value) (err error) {
		u.UID, err = c.count(1, 1<<31-2)
		if err == nil && u.UID == 65534 {
			err = c.bad("give another, such as 1000", "is 65534, which stands for whoever is unknown inside")
		}
		return err
	}
	name := func(c value) (err error) {
		u.Name, err = c.text("a user's name")
		if err == nil && !userForm.MatchString(u.Name) {
			err = c.bad("use lower case letters, digits, _ and -, a letter first", "is %s, which is no name of a user", quote(u.Name))
		}
		return err
	}
	var err error
	if v.node.Kind == yaml.ScalarNode {
		if _, notNumber := strconv.Atoi(v.node.Value); notNumber == nil {
			err = number(v)
		} else {
			err = name(v)
		}
	} else {
		err = v.mapping(field{"name", name}, field{"uid", number})
	}
	if err == nil && u.Name == "root" {
		err = v.bad("name another, such as agent", "is root, and nobody has privileges inside")
	}
	return u, err
}
