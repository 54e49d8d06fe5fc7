package toolset

import (
	"context"
	"encoding/json"
	"log/slog"
	"time"

	"github.com/berthdev/berth/api"
)

// Options bound what the tools take and give. The zero value is the
// documented behaviour.
type Options struct {
	// MaxFileBytes is the largest text that read gives at once; 0 means
	// 256 KiB, negative means 64 MiB.
	MaxFileBytes int64
	// MaxEditBytes is the largest file that edit changes, before and after;
	// 0 means 16 MiB.
	MaxEditBytes int64
	// Timeout is a bash command's limit when it names none; 0 means 120 s.
	Timeout time.Duration
	// MaxTimeout is the longest limit a bash command may ask for; 0 means 2 h.
	MaxTimeout time.Duration
	// SearchTime bounds one glob or grep, which then says what it left out;
	// 0 means 60 s.
	SearchTime time.Duration
	// SearchEntries bounds the files and directories one glob or grep visits;
	// 0 means 1,000,000.
	SearchEntries int
	// Log takes what a host's failure was about, which the model is not told;
	// nil for nowhere.
	Log *slog.Logger
}

const (
	defaultFileBytes     = 256 << 10
	noFileBytes          = 64 << 20
	defaultEditBytes     = 16 << 20
	defaultTimeout       = 120 * time.Second
	defaultMaxTimeout    = 2 * time.Hour
	defaultSearchTime    = 60 * time.Second
	defaultSearchEntries = 1_000_000
	// grace is what a call gets beyond its own limit before it is cut off.
	grace = 5 * time.Second
)

func (o Options) filled() Options {
	switch {
	case o.MaxFileBytes == 0:
		o.MaxFileBytes = defaultFileBytes
	case o.MaxFileBytes < 0:
		o.MaxFileBytes = noFileBytes
	}
	if o.MaxEditBytes <= 0 {
		o.MaxEditBytes = defaultEditBytes
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Timeout <= 0 {
		o.Timeout = defaultTimeout
	}
	if o.MaxTimeout <= 0 {
		o.MaxTimeout = defaultMaxTimeout
	}
	o.MaxTimeout = max(o.MaxTimeout, o.Timeout)
	if o.SearchTime <= 0 {
		o.SearchTime = defaultSearchTime
	}
	if o.SearchEntries <= 0 {
		o.SearchEntries = defaultSearchEntries
	}
	return o
}

// Set is the six tools over one host. Safe for concurrent use as far as its
// host is.
type Set struct {
	host  Host
	files Files // nil: only bash is there
	opts  Options
}

// New makes the tools of a session. Without Files the set has bash alone.
func New(host Host, opts Options) *Set {
	return &Set{host: host, files: host.Files(), opts: opts.filled()}
}

// Names lists the tools the set has, in the order of Definitions.
func (s *Set) Names() []string {
	var names []string
	for _, d := range s.Definitions() {
		names = append(names, d.Name)
	}
	return names
}

// Definitions describes the tools the set has.
func (s *Set) Definitions() []Definition {
	if s.files == nil {
		return Definitions()[:1]
	}
	return Definitions()
}

// Has says whether the set owns the tool; calls of other tools are somebody
// else's to answer.
func (s *Set) Has(name string) bool {
	t, ok := tools[name]
	return ok && (s.files != nil || !t.needsFiles)
}

// Run runs one call and always ends: at the latest grace after the call's own
// limit, or soon after ctx ends. id is the tool-use id, input the call's
// arguments as the model gave them. There is at least one block, every text
// is valid UTF-8 and not empty, and all of it together is bounded. With
// isError the text says what went wrong in words the model can act on; names
// of the host never appear in it.
func (s *Set) Run(ctx context.Context, id, name string, input json.RawMessage) (content []api.Block, isError bool) {
	if !s.Has(name) {
		return textual(failf("there is no tool named %q", name))
	}
	ctx, cancel := context.WithTimeout(ctx, s.limit(name, input)+grace)
	defer cancel()
	return textual(tools[name].run(s, ctx, id, input))
}

type tool struct {
	needsFiles bool
	run        func(s *Set, ctx context.Context, id string, input json.RawMessage) outcome
}

// tools are the built-in ones by name.
var tools = map[string]tool{
	"bash":  {false, (*Set).bash},
	"read":  {true, (*Set).read},
	"write": {true, (*Set).write},
	"edit":  {true, (*Set).edit},
	"glob":  {true, (*Set).glob},
	"grep":  {true, (*Set).grep},
}

// limit is how long a call may take by its own arguments.
func (s *Set) limit(name string, input json.RawMessage) time.Duration {
	switch name {
	case "bash":
		if in, err := decodeBash(input); err == nil {
			return max(s.timeout(in), s.opts.Timeout)
		}
	case "glob", "grep":
		return max(s.opts.SearchTime, s.opts.Timeout)
	}
	return s.opts.Timeout
}
