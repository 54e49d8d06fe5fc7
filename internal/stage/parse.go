package stage

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/berthdev/berth/api"
)

// Input is one thing that a session wants in its working directory.
type Input struct {
	Key    string // of the metadata
	Scheme string // file, https, s3 or git
	URL    *url.URL
	Name   string // where, relative to the working directory, with slashes; of a repository also "."
	SHA256 string // of a file, 64 hexadecimal digits; "" is not checked
	Commit string // of a repository, 40 or 64 hexadecimal digits
}

// String names the input for people. It has no credentials and no query, which
// may hold one.
func (in Input) String() string {
	u := url.URL{Scheme: in.URL.Scheme, Host: in.URL.Host, Path: in.URL.Path}
	return fmt.Sprintf("%q (%s: %s)", in.Name, in.Key, u.Redacted())
}

// Bounds of what one session may ask for.
const (
	maxInputs   = 64
	maxNameText = 1024
	maxNamePart = 255
)

// Parse reads a session's inputs from its metadata: the keys input_file,
// input_files and git, and the same with a dot and a suffix. Each value is a
// list of entries, as docs/inputs.md says. Metadata without inputs gives none.
func Parse(m api.Metadata) ([]Input, error) {
	var all []Input
	for _, key := range slices.Sorted(maps.Keys(m)) {
		base, _, _ := strings.Cut(key, ".")
		if base != "input_file" && base != "input_files" && base != "git" {
			continue
		}
		entries, err := entries(m[key])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
		if base == "input_file" && len(entries) > 1 {
			return nil, fmt.Errorf("%s: it names more than one file; use input_files", key)
		}
		for _, e := range entries {
			in, err := parseEntry(base, e)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", key, err)
			}
			in.Key = key
			all = append(all, in)
		}
	}
	if len(all) > maxInputs {
		return nil, fmt.Errorf("there are %d inputs; at most %d are taken", len(all), maxInputs)
	}
	return all, distinct(all)
}

// entry is a URL and the words after it.
type entry struct {
	url   string
	words []string
}

// entries reads a list: JSON strings, or words between blanks. A word without
// a scheme's colon and slashes belongs to the URL before it.
func entries(value string) ([]entry, error) {
	var words []string
	if strings.HasPrefix(strings.TrimSpace(value), "[") {
		var items []string
		if json.Unmarshal([]byte(value), &items) != nil {
			return nil, fmt.Errorf("it begins like a JSON list and is no list of strings")
		}
		for _, item := range items {
			words = append(words, strings.Fields(item)...)
		}
	} else {
		words = strings.Fields(value)
	}
	var all []entry
	for _, w := range words {
		switch {
		case strings.Contains(w, ":/"):
			all = append(all, entry{url: w})
		case len(all) == 0:
			return nil, fmt.Errorf("%.80q is no URL", w)
		default:
			last := &all[len(all)-1]
			last.words = append(last.words, w)
		}
	}
	return all, nil
}

func parseEntry(base string, e entry) (Input, error) {
	u, err := url.Parse(e.url)
	if err != nil {
		return Input{}, fmt.Errorf("an entry is no URL") // the parser's words hold all of it
	}
	options, err := options(u.Fragment, e.words)
	if err != nil {
		return Input{}, err
	}
	u.Fragment, u.RawFragment = "", ""
	in := Input{URL: u, Scheme: u.Scheme, Name: options["name"], SHA256: strings.ToLower(options["sha256"]), Commit: strings.ToLower(options["commit"])}
	if base == "git" || u.Scheme == "git+https" {
		in.Scheme = "git"
	}
	if err := in.checkURL(); err != nil {
		return Input{}, err
	}
	if in.Name == "" {
		in.Name = path.Base("/" + u.Path)
		if in.Scheme == "git" {
			in.Name = strings.TrimSuffix(in.Name, ".git")
		}
	}
	return in, in.check()
}

// options reads name=…&sha256=…&commit=…, and the words sha256:… and name=….
func options(fragment string, words []string) (map[string]string, error) {
	o := map[string]string{}
	set := func(pair string, sep string) error {
		k, v, ok := strings.Cut(pair, sep)
		if !ok || v == "" || k != "name" && k != "sha256" && k != "commit" {
			return fmt.Errorf("%.80q is not understood; after a URL may come name=…, sha256=… and commit=…", pair)
		}
		if _, twice := o[k]; twice {
			return fmt.Errorf("%s is given twice", k)
		}
		o[k] = v
		return nil
	}
	if fragment != "" {
		for pair := range strings.SplitSeq(fragment, "&") {
			if err := set(pair, "="); err != nil {
				return nil, err
			}
		}
	}
	for _, w := range words {
		sep := "="
		if strings.HasPrefix(w, "sha256:") {
			sep = ":"
		}
		if err := set(w, sep); err != nil {
			return nil, err
		}
	}
	return o, nil
}

func (in *Input) checkURL() error {
	u := in.URL
	if u.User != nil {
		return fmt.Errorf("a URL of %s holds a user or a password; credentials belong to the worker, not into metadata", u.Hostname())
	}
	switch {
	case in.Scheme == "git":
		if u.Scheme != "git+https" && u.Scheme != "https" || u.Host == "" {
			return fmt.Errorf("a repository must be a git+https:// URL")
		}
		if u.RawQuery != "" {
			return fmt.Errorf("the URL of a repository has no query")
		}
	case in.Scheme == "file":
		if u.Host != "" || !path.IsAbs(u.Path) || u.RawQuery != "" {
			return fmt.Errorf("a file: URL must be file:///an/absolute/path")
		}
	case in.Scheme == "https", in.Scheme == "s3":
		if u.Host == "" || strings.Trim(u.Path, "/") == "" {
			return fmt.Errorf("an %s: URL needs a host or bucket and a path", in.Scheme)
		}
	default:
		return fmt.Errorf("%.20q is no scheme of inputs (file:, https:, git+https: and s3: are)", u.Scheme)
	}
	return nil
}

func (in *Input) check() error {
	if in.Scheme == "git" {
		if !isHex(in.Commit, 40) && !isHex(in.Commit, 64) {
			return fmt.Errorf("the repository %s needs #commit= with a whole commit id", in.URL.Redacted())
		}
		if in.SHA256 != "" {
			return fmt.Errorf("a repository has no sha256; its commit is one")
		}
	} else {
		if in.Commit != "" {
			return fmt.Errorf("commit= is for repositories")
		}
		if in.SHA256 != "" && !isHex(in.SHA256, 64) {
			return fmt.Errorf("sha256 must have 64 hexadecimal digits")
		}
		if in.Name == "." {
			return fmt.Errorf("an input has no file name; give one with #name=")
		}
	}
	return checkName(in.Name)
}

// checkName wants a plain name inside the working directory.
func checkName(name string) error {
	if !filepath.IsLocal(name) || path.Clean(name) != name || len(name) > maxNameText || strings.ContainsAny(name, "\x00\\") {
		return fmt.Errorf("the name %.80q does not lead into the working directory; give another with #name=", name)
	}
	for part := range strings.SplitSeq(name, "/") {
		if len(part) > maxNamePart {
			return fmt.Errorf("the name %.80q is longer than %d bytes", part, maxNamePart)
		}
	}
	return nil
}

// distinct refuses two inputs at one place, or one below another that is a
// file.
func distinct(all []Input) error {
	at := map[string]Input{}
	for _, in := range all {
		if other, ok := at[in.Name]; ok {
			return fmt.Errorf("%s and %s have the same name; give another with #name=", other, in)
		}
		at[in.Name] = in
	}
	for _, in := range all {
		for dir := path.Dir(in.Name); dir != "."; dir = path.Dir(dir) {
			if other, ok := at[dir]; ok {
				return fmt.Errorf("%s would lie inside %s", in, other)
			}
		}
	}
	return nil
}

func isHex(s string, n int) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b)*2 == n
}
