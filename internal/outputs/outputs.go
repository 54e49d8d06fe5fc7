// Package outputs keeps what sessions leave behind in /mnt/session/outputs:
// a copy of the files and a manifest that says what they are, replaced in one
// step. The files come from a hostile place: links and special files are left
// out, and names, sizes and numbers are bounded.
package outputs

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
	"unicode/utf8"

	"github.com/berthdev/berth/toolset"
)

// Dir is where agents are told to leave what they made.
const Dir = "/mnt/session/outputs"

const (
	filesName    = "files"
	manifestName = "manifest.json"
	// maxManifest bounds a manifest that is read, in bytes.
	maxManifest = 256 << 20
	// maxNames bounds the paths of all files together, in bytes, so that a
	// manifest, which may take six for one, stays below maxManifest.
	maxNames = 32 << 20
	// maxLeftOut is how many files left out are named; the others are counted.
	maxLeftOut = 1000
)

// Limits bound what is kept of one session. Zero fields are the defaults.
type Limits struct {
	Bytes int64 // of all files together, holes counted; 0 means 16 GiB
	Files int   // 0 means 100,000
}

var now = time.Now // a test turns it forward

func (l Limits) filled() Limits {
	if l.Bytes <= 0 {
		l.Bytes = 16 << 30
	}
	if l.Files <= 0 {
		l.Files = 100_000
	}
	return l
}

// Manifest says what was kept and what was not.
type Manifest struct {
	Session   string    `json:"session"`
	Collected time.Time `json:"collected_at"`
	Bytes     int64     `json:"bytes"`
	Files     []File    `json:"files"`
	LeftOut   []LeftOut `json:"left_out,omitempty"`
	// More counts the files left out that are not named.
	More int `json:"more_left_out,omitempty"`
}

// File is one file that was kept.
type File struct {
	Path     Path        `json:"path"` // below the outputs' directory, with slashes
	Size     int64       `json:"size"`
	SHA256   string      `json:"sha256"`
	Mode     fs.FileMode `json:"mode"` // permission bits
	Modified time.Time   `json:"mtime"`
	// Version changes whenever the file in the tree does; "" is unknown.
	Version string `json:"version,omitempty"`
}

// LeftOut is one file that was not kept, and why.
type LeftOut struct {
	Path   Path   `json:"path"`
	Reason string `json:"reason"`
}

// Path is a file's name as it is on disk, which need not be UTF-8. In JSON it
// is then "base64:" and its bytes.
type Path string

const raw = "base64:"

// MarshalText writes the path so that UnmarshalText gives the same bytes.
func (p Path) MarshalText() ([]byte, error) {
	if utf8.ValidString(string(p)) && (len(p) < len(raw) || p[:len(raw)] != raw) {
		return []byte(p), nil
	}
	return []byte(raw + base64.StdEncoding.EncodeToString([]byte(p))), nil
}

// UnmarshalText reads what MarshalText wrote.
func (p *Path) UnmarshalText(b []byte) error {
	if len(b) < len(raw) || string(b[:len(raw)]) != raw {
		*p = Path(b)
		return nil
	}
	name, err := base64.StdEncoding.DecodeString(string(b[len(raw):]))
	*p = Path(name)
	return err
}

// Parse reads a manifest and refuses one that no Collect has written: names
// that lead elsewhere, negative sizes, digests that are none.
func Parse(b []byte) (Manifest, error) {
	var m Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return Manifest{}, fmt.Errorf("outputs: manifest: %w", err)
	}
	for _, f := range m.Files {
		switch {
		case !filepath.IsLocal(string(f.Path)) || filepath.Clean(string(f.Path)) != string(f.Path) || f.Path == ".":
			return Manifest{}, fmt.Errorf("outputs: manifest: the path %q leads elsewhere", f.Path)
		case f.Size < 0 || len(f.SHA256) != 64 || f.Mode != f.Mode.Perm():
			return Manifest{}, fmt.Errorf("outputs: manifest: what it says of %q cannot be", f.Path)
		}
	}
	return m, nil
}

// Read gives the manifest of what is kept in a session's directory;
// fs.ErrNotExist when nothing is.
func Read(dir string) (Manifest, error) {
	f, err := os.Open(filepath.Join(dir, manifestName))
	if err != nil {
		return Manifest{}, fmt.Errorf("outputs: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return Manifest{}, fmt.Errorf("outputs: %w", err)
	}
	if info.Size() > maxManifest {
		return Manifest{}, fmt.Errorf("outputs: %s has %d bytes, more than a manifest has", f.Name(), info.Size())
	}
	b := make([]byte, info.Size())
	if _, err := f.ReadAt(b, 0); err != nil {
		return Manifest{}, fmt.Errorf("outputs: %w", err)
	}
	return Parse(b)
}

// Collect keeps what is below Dir in files in the directory to, which is
// replaced in one step and so never half of anything. A file that is the same
// as at the last time is not copied again. When nothing is there, or no longer,
// what was kept stays. Nothing may write to the files meanwhile that is not
// content with being caught in the middle. lost are outputs that never came to
// files, for the manifest; alone they replace nothing that was kept.
func Collect(ctx context.Context, files toolset.Files, session, to string, l Limits, lost ...LeftOut) (Manifest, error) {
	last, err := Read(to)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		last = Manifest{} // unreadable, and about to be replaced
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return last, fmt.Errorf("outputs: %w", err)
	}
	c := &collector{files: files, limits: l.filled(), last: to, kept: !last.Collected.IsZero(), known: map[Path]File{}, began: now()}
	for _, f := range last.Files {
		if f.Version != "" {
			c.known[f.Path] = f
		}
	}
	c.manifest = Manifest{Session: session, Collected: c.began.UTC().Truncate(time.Millisecond), Files: []File{}}
	defer c.drop()
	if err := c.collect(ctx, lost); err != nil {
		return last, fmt.Errorf("outputs: %w", err)
	}
	if c.dir == "" {
		return last, nil
	}
	if err := c.write(); err != nil {
		return last, fmt.Errorf("outputs: %w", err)
	}
	if err := replace(c.dir, to); err != nil {
		return last, fmt.Errorf("outputs: %w", err)
	}
	return c.manifest, nil
}

// write writes the manifest beside the files.
func (c *collector) write() error {
	b, err := json.MarshalIndent(c.manifest, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(c.dir, manifestName), append(b, '\n'), 0o600)
}
