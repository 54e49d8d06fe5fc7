// Package skills brings the skills of a session's agent onto this host, from
// where they are shown to its tools. What has been unpacked once is kept and
// shared by all sessions.
package skills

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/client"
	"github.com/berthdev/berth/worker"
)

// Bounds of one session's skills.
const (
	maxSkills = 64
	parallel  = 4
	maxTime   = 2 * time.Minute // for all of them
	maxPages  = 50              // of a list of versions
)

// Preparer brings sessions their skills. Safe for concurrent use. It fulfils
// worker.Preparer.
type Preparer struct{ cache *cache }

// New makes a Preparer that keeps what it has unpacked below dir.
func New(dir string) (*Preparer, error) {
	c, err := openCache(dir)
	if err != nil {
		return nil, fmt.Errorf("skills: %w", err)
	}
	return &Preparer{c}, nil
}

// Prepare brings the skills of the session's agent and of its roster. A skill
// that cannot be had is a warning.
func (p *Preparer) Prepare(ctx context.Context, in worker.PrepareInput) (*worker.Prepared, error) {
	refs := wanted(in.Session.Agent)
	out := &worker.Prepared{}
	if len(refs) == 0 {
		return out, nil
	}
	warn := func(ref api.SkillRef, err error) {
		in.Log.Warn("a skill is missing", "skill", ref.SkillID, "version", ref.Version, "error", err)
		out.Warnings = append(out.Warnings, "the skill "+strconv.QuoteToASCII(ref.SkillID)+" is missing: "+reason(err))
	}
	if len(refs) > maxSkills {
		for _, ref := range refs[maxSkills:] {
			warn(ref, problem(fmt.Sprintf("a session gets %d skills at most", maxSkills)))
		}
		refs = refs[:maxSkills]
	}
	limited, cancel := context.WithTimeoutCause(ctx, maxTime, problem("it could not be had in time"))
	defer cancel()
	got := p.fetch(limited, in.Client, refs)
	release := func() {
		for _, s := range got {
			if s.err == nil {
				p.cache.release(s.digest)
			}
		}
	}
	if ctx.Err() != nil {
		release()
		return nil, context.Cause(ctx)
	}
	if err := p.cache.trim(time.Now()); err != nil {
		in.Log.Warn("skills that nobody has used for long could not be removed", "error", err)
	}
	out.Finish = func(context.Context, worker.End) error {
		release()
		return nil
	}
	names := map[string]bool{}
	for i, s := range got {
		switch {
		case s.err != nil:
			warn(refs[i], s.err)
		case names[strings.ToLower(s.name)]:
			warn(refs[i], problem("another skill is called "+s.name+", too"))
		default:
			names[strings.ToLower(s.name)] = true
			out.Mounts = append(out.Mounts, worker.Mount{Source: p.cache.files(s.digest), Target: path.Join("skills", s.name), ReadOnly: true})
		}
	}
	return out, nil
}

// skill is one that is here, or why it is not.
type skill struct {
	name   string
	digest string // held in the cache
	err    error
}

func (p *Preparer) fetch(ctx context.Context, c *client.Client, refs []api.SkillRef) []skill {
	got := make([]skill, len(refs))
	room := make(chan struct{}, parallel)
	var all sync.WaitGroup
	for i, ref := range refs {
		all.Go(func() {
			room <- struct{}{}
			defer func() { <-room }()
			got[i] = p.one(ctx, c, ref)
			if got[i].err != nil && ctx.Err() != nil { // nothing is held
				got[i].err = context.Cause(ctx)
			}
		})
	}
	all.Wait()
	return got
}

func (p *Preparer) one(ctx context.Context, c *client.Client, ref api.SkillRef) skill {
	v, err := version(ctx, c, ref)
	if err != nil {
		return skill{err: err}
	}
	name, err := nameOf(ref, v)
	if err != nil {
		return skill{err: err}
	}
	// It names the version in paths: an older plane's number, or the id.
	key := v.Version
	if key == "" {
		key = v.ID
	}
	digest, err := p.cache.get(ctx, c, ref.SkillID, key)
	return skill{name, digest, err}
}

// version is what a reference stands for. Older planes know neither "latest"
// nor ids in paths: there it is the greatest number.
func version(ctx context.Context, c *client.Client, ref api.SkillRef) (*api.SkillVersion, error) {
	at := ref.Version
	if at == "" {
		at = "latest"
	}
	v, err := c.SkillVersion(ctx, ref.SkillID, at)
	status := client.StatusOf(err)
	if err == nil || number(at) || status != 404 && status != 400 && status != 422 {
		return v, err
	}
	var last *api.SkillVersion
	q := client.PageQuery{Limit: 100}
	for range maxPages {
		page, lerr := c.SkillVersions(ctx, ref.SkillID, q)
		if lerr != nil {
			return nil, err // the first one says more
		}
		for _, v := range page.Data {
			if number(v.Version) && (last == nil || less(last.Version, v.Version)) {
				last = &v
			}
		}
		if page.NextPage == nil || *page.NextPage == "" {
			break
		}
		q.Page = *page.NextPage
	}
	if last == nil {
		return nil, err
	}
	return last, nil
}

func number(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// less compares decimal numbers.
func less(a, b string) bool {
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	if len(a) != len(b) {
		return len(a) < len(b)
	}
	return a < b
}

var plainName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)

// nameOf is the name of the skill's directory.
func nameOf(ref api.SkillRef, v *api.SkillVersion) (string, error) {
	name := v.Directory
	if name == "" {
		name = v.Name
	}
	if i := strings.LastIndex(name, "/"); i >= 0 {
		name = name[i+1:]
	}
	if name == "" {
		name = ref.SkillID
	}
	if !plainName.MatchString(name) {
		return "", problem("its name " + strconv.QuoteToASCII(name[:min(len(name), 128)]) + " is no plain directory name")
	}
	return name, nil
}

// wanted are the skills of an agent and of the agents it may call, each once.
func wanted(a api.SessionAgent) []api.SkillRef {
	var refs []api.SkillRef
	seen := map[api.SkillRef]bool{}
	add := func(more []api.SkillRef) {
		for _, r := range more {
			if r.SkillID != "" && !seen[r] {
				seen[r] = true
				refs = append(refs, r)
			}
		}
	}
	add(a.Skills)
	for _, raw := range roster(a.Multiagent) {
		var other struct {
			Skills []api.SkillRef `json:"skills"`
		}
		if json.Unmarshal(raw, &other) == nil { // a bare id has none
			add(other.Skills)
		}
	}
	return refs
}

// roster are the agents that a session's agent may call, in either shape.
func roster(multiagent json.RawMessage) []json.RawMessage {
	var m struct {
		Agents    []json.RawMessage `json:"agents"`
		Subagents struct {
			Predefined []json.RawMessage `json:"predefined_agents"`
		} `json:"subagents"`
	}
	if len(multiagent) == 0 || json.Unmarshal(multiagent, &m) != nil {
		return nil
	}
	return append(m.Agents, m.Subagents.Predefined...)
}

// problem is a failure that the session may read.
type problem string

func (p problem) Error() string { return string(p) }

// reason is what the session is told of a failure: the log has all of it.
func reason(err error) string {
	if p, ok := errors.AsType[problem](err); ok {
		return string(p)
	}
	if e, ok := errors.AsType[*client.Error](err); ok {
		return fmt.Sprintf("the control plane answers %d", e.Status)
	}
	return "it could not be downloaded"
}
