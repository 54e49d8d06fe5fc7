package archive

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"syscall"
	"testing"
	"time"
)

// member is one of an archive under test. kind is a tar type flag; 0 is a file.
type member struct {
	name string
	kind byte
	body string // or the link's target
	mode int64
	size int64 // says another size than the body has
	pax  map[string]string
}

func packTar(t testing.TB, all ...member) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range all {
		h := &tar.Header{Name: m.name, Typeflag: m.kind, Mode: m.mode, Format: tar.FormatPAX, PAXRecords: m.pax, ModTime: time.Unix(1e9, 0)}
		if m.mode == 0 {
			h.Mode = 0o644
		}
		switch m.kind {
		case 0, tar.TypeReg:
			h.Typeflag, h.Size = tar.TypeReg, int64(len(m.body))
		case tar.TypeSymlink, tar.TypeLink:
			h.Linkname = m.body
		}
		if m.size != 0 {
			h.Size = m.size
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatalf("%+v: %v", m, err)
		}
		if h.Typeflag == tar.TypeReg && m.size == 0 {
			if _, err := io.WriteString(w, m.body); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.Close()
	return b.Bytes()
}

func packZip(t testing.TB, all ...member) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, m := range all {
		h := &zip.FileHeader{Name: m.name, Method: zip.Deflate, Modified: time.Unix(1e9, 0)}
		mode := fs.FileMode(m.mode)
		switch m.kind {
		case tar.TypeSymlink:
			mode |= fs.ModeSymlink
		case tar.TypeDir:
			mode |= fs.ModeDir
		case tar.TypeFifo:
			mode |= fs.ModeNamedPipe
		case tar.TypeChar:
			mode |= fs.ModeDevice | fs.ModeCharDevice
		}
		h.SetMode(mode)
		f, err := w.CreateHeader(h)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(f, m.body); err != nil {
			t.Fatal(err)
		}
	}
	w.Close()
	return b.Bytes()
}

// target is a directory to unpack into, with a neighbour that must not change.
func target(t testing.TB) (*os.Root, string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"outside/secret": "secret", "in/.keep": ""} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	os.Remove(filepath.Join(dir, "in/.keep"))
	root, err := os.OpenRoot(filepath.Join(dir, "in"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		root.Close()
		b, err := os.ReadFile(filepath.Join(dir, "outside/secret"))
		left, _ := os.ReadDir(filepath.Join(dir, "outside"))
		top, _ := os.ReadDir(dir)
		if err != nil || string(b) != "secret" || len(left) != 1 || len(top) != 2 {
			t.Errorf("something outside the target has changed: %q %v %v %v", b, err, left, top)
		}
	})
	return root, filepath.Join(dir, "in")
}

// shape lists a tree, one entry a line.
func shape(t testing.TB, dir string) string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		info, err := d.Info()
		if err != nil {
			return err
		}
		line := rel
		switch m := info.Mode(); m.Type() {
		case fs.ModeDir:
			line += "/"
		case fs.ModeSymlink:
			to, _ := os.Readlink(p)
			line += " -> " + to
		case 0:
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			line += " " + string(b)
			if m&0o111 != 0 {
				line += " x"
			}
		default:
			line += " " + m.String()
		}
		if info.Mode()&(fs.ModeSetuid|fs.ModeSetgid) != 0 {
			t.Errorf("%s is %v", rel, info.Mode())
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	sort.Strings(lines)
	return strings.Join(lines, "\n")
}

var small = Limits{Members: 100, Bytes: 1 << 20, Depth: 10}

func TestStrict(t *testing.T) {
	good := []member{
		{name: "skill/", kind: tar.TypeDir, mode: 0o700},
		{name: "skill/SKILL.md", body: "text"},
		{name: "./skill/run.sh", body: "go", mode: 0o4755},
		{name: "skill/deep/a", body: "made"},
		{name: "skill/deep/link", kind: tar.TypeSymlink, body: "../SKILL.md"},
		{name: "skill/deep/", kind: tar.TypeDir},
	}
	const want = "skill/\nskill/SKILL.md text\nskill/deep/\nskill/deep/a made\nskill/deep/link -> ../SKILL.md\nskill/run.sh go x"
	for form, unpack := range map[string]func(*os.Root) error{
		"tar": func(r *os.Root) error { return Untar(r, bytes.NewReader(packTar(t, good...)), small) },
		"zip": func(r *os.Root) error {
			b := packZip(t, good...)
			return Unzip(r, bytes.NewReader(b), int64(len(b)), small)
		},
	} {
		root, dir := target(t)
		if err := unpack(root); err != nil {
			t.Errorf("%s: %v", form, err)
		}
		if got := shape(t, dir); got != want {
			t.Errorf("%s:\n%s\nwant\n%s", form, got, want)
		}
		if st, _ := os.Stat(filepath.Join(dir, "skill/SKILL.md")); st.ModTime().Unix() != 1e9 || st.Mode() != 0o644 {
			t.Errorf("%s: %v %v", form, st.ModTime(), st.Mode())
		}
	}
}

// What a hostile archive of somebody's files tries, and how it is refused.
// Attack 14 of the sandboxes' list.
func TestStrictRefuses(t *testing.T) {
	f := func(names ...string) (all []member) {
		for _, n := range names {
			all = append(all, member{name: n, body: "x"})
		}
		return all
	}
	link := func(name, to string) member { return member{name: name, kind: tar.TypeSymlink, body: to} }
	many := make([]member, 101)
	for i := range many {
		many[i] = member{name: fmt.Sprintf("f%d", i)}
	}
	for name, c := range map[string]struct {
		all  []member
		says string
		tar  bool // has no meaning in a zip
	}{
		"up":                    {f("../x"), "has .. in its name", false},
		"up inside":             {f("a/../../x"), "has .. in its name", false},
		"absolute":              {f("/etc/x"), "absolute name", false},
		"backslash":             {f(`..\x`), "backslash", false},
		"empty":                 {f("."), "has no name", false},
		"bad UTF-8":             {[]member{{name: "a\xff", body: "x"}}, "not UTF-8", false},
		"long part":             {f(strings.Repeat("a", 256)), "more than 255 bytes", false},
		"long name":             {f(strings.Repeat("a/", 2100) + "x"), "more than 4095 bytes", false},
		"deep":                  {f(strings.Repeat("a/", 10) + "x"), "deeper than 10", false},
		"twice":                 {f("a", "a"), "is there twice", false},
		"file over directory":   {f("a/b", "a"), "is there twice", false},
		"below a file":          {f("a", "a/b"), "which is no directory", false},
		"case twins":            {f("Readme", "README"), "differs from another in case only", false},
		"case twins above":      {f("Doc/a", "doc/b"), "differs from another in case only", false},
		"link out":              {[]member{link("a", "../x")}, "out of the archive", false},
		"link to absolute":      {[]member{link("a", "/etc/passwd")}, "out of the archive", false},
		"link out by a way":     {[]member{link("d/a", "b/../../../x")}, "a way up that follows a way down", false},
		"link, then below it":   {[]member{link("a", "b"), {name: "a/x", body: "x"}}, "lies behind the link a", false},
		"link, then it":         {[]member{link("a", "b"), {name: "a", body: "x"}}, "is there twice", false},
		"link with backslash":   {[]member{link("a", `b\c`)}, "out of the archive", false},
		"hard link out":         {[]member{{name: "a", kind: tar.TypeLink, body: "../outside/secret"}}, "what is no path", true},
		"hard link to nothing":  {[]member{{name: "a", kind: tar.TypeLink, body: "b"}}, "not there", true},
		"hard link to itself":   {[]member{{name: "a", body: "x"}, {name: "a", kind: tar.TypeLink, body: "a"}}, "itself", true},
		"hard link to a folder": {[]member{{name: "d/a"}, {name: "b", kind: tar.TypeLink, body: "d"}}, "a directory", true},
		"hard link by a link":   {[]member{{name: "d/a"}, link("e", "d"), {name: "b", kind: tar.TypeLink, body: "e/a"}}, "behind the link", true},
		"device":                {[]member{{name: "a", kind: tar.TypeChar}}, "a device, a FIFO", false},
		"FIFO":                  {[]member{{name: "a", kind: tar.TypeFifo}}, "a device, a FIFO", false},
		"many":                  {many, "more than 100 members", false},
		"big":                   {[]member{{name: "a", body: strings.Repeat("x", 1<<19)}, {name: "b", body: strings.Repeat("x", 1<<19+1)}}, "above 1048576 bytes", false},
	} {
		root, _ := target(t)
		check(t, name+" (tar)", Untar(root, bytes.NewReader(packTar(t, c.all...)), small), c.says)
		if c.tar {
			continue
		}
		root, _ = target(t)
		b := packZip(t, c.all...)
		check(t, name+" (zip)", Unzip(root, bytes.NewReader(b), int64(len(b)), small), c.says)
	}
}

func check(t *testing.T, name string, err error, says string) {
	t.Helper()
	ae, ok := errors.AsType[*Error](err)
	if !ok || !strings.Contains(ae.Error(), says) || strings.Contains(ae.Error(), "\n") {
		t.Errorf("%s: got %v, want an *Error with %q", name, err, says)
	}
}

// Bombs end early, in time and in bytes on the disk.
func TestBombs(t *testing.T) {
	used := func(dir string) (n int64) {
		filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			if info, e := d.Info(); e == nil {
				n += info.Sys().(*syscall.Stat_t).Blocks * 512
			}
			return nil
		})
		return n
	}
	lim := Limits{Members: 1000, Bytes: 8 << 20}
	sparse := sparseTar(t)
	zeros := strings.Repeat("\x00", 4<<20)
	flat := packZip(t, member{name: "a", body: zeros}, member{name: "b", body: zeros}, member{name: "c", body: zeros})
	folded, untrue, many := overlapping(t, 200), lying(t), names(t, 100_000)
	var layer []member
	for i := range 5000 {
		layer = append(layer, member{name: fmt.Sprintf("d/%d", i)})
	}
	for range 5000 {
		layer = append(layer, member{name: "d/.wh..wh..opq"})
	}
	hiding := packTar(t, append(layer, member{name: "../end"})...)
	began := time.Now()
	for name, unpack := range map[string]func(*os.Root) error{
		"whiteouts without end": func(r *os.Root) error {
			_, err := Unlayer(r, bytes.NewReader(hiding), Limits{Members: 20_000})
			return err
		},
		"sparse tar of 8 GB":   func(r *os.Root) error { return Untar(r, bytes.NewReader(sparse), lim) },
		"sparse layer of 8 GB": func(r *os.Root) error { _, err := Unlayer(r, bytes.NewReader(sparse), lim); return err },
		"a file that says 1 TB": func(r *os.Root) error {
			return Untar(r, bytes.NewReader(packTar(t, member{name: "a", size: 1 << 40})), lim)
		},
		"a stream without an end": func(r *os.Root) error {
			_, err := Unlayer(r, io.MultiReader(bytes.NewReader(packTar(t)), endless{}), lim)
			return err
		},
		"a million members": func(r *os.Root) error {
			return Untar(r, &repeated{block: packTar(t, member{name: "a/", kind: tar.TypeDir})[:512]}, lim)
		},
		"a zip of zeros":             func(r *os.Root) error { return Unzip(r, bytes.NewReader(flat), int64(len(flat)), lim) },
		"a zip that overlaps itself": func(r *os.Root) error { return Unzip(r, bytes.NewReader(folded), int64(len(folded)), lim) },
		"a zip that lies about size": func(r *os.Root) error { return Unzip(r, bytes.NewReader(untrue), int64(len(untrue)), lim) },
		"a zip with a million names": func(r *os.Root) error { return Unzip(r, bytes.NewReader(many), int64(len(many)), lim) },
	} {
		root, dir := target(t)
		says := ""
		if strings.HasPrefix(name, "sparse") {
			says = "brings the archive above"
		}
		check(t, name, unpack(root), says)
		if n := used(dir); n > lim.Bytes+1<<20 {
			t.Errorf("%s: %d bytes are used", name, n)
		}
	}
	if d := time.Since(began); d > time.Minute {
		t.Errorf("the bombs took %v", d)
	}
}

// sparseTar is a file of 8 GB with one byte in it, in the form of GNU tar.
func sparseTar(t testing.TB) []byte {
	b := packTar(t, member{name: "s", body: "x"})
	octal := func(at, width int, v int64) { copy(b[at:], fmt.Sprintf("%0*o\x00", width-1, v)) }
	b[156] = tar.TypeGNUSparse
	copy(b[257:], "ustar  \x00")
	clear(b[345:512])
	octal(386, 12, 0)
	octal(398, 12, 1)
	copy(b[410:], fmt.Sprintf("%011o\x00%011o\x00", int64(1)<<33-1, 0))
	octal(483, 12, 1<<33-1)
	copy(b[148:156], "        ")
	sum := int64(0)
	for _, c := range b[:512] {
		sum += int64(c)
	}
	copy(b[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// repeated is a stream of one block for ever.
type repeated struct {
	block []byte
	at    int
}

func (r *repeated) Read(p []byte) (int, error) {
	n := copy(p, r.block[r.at:])
	r.at = (r.at + n) % len(r.block)
	return n, nil
}

// overlapping is a zip whose entries share one file, as the flat bombs do.
func overlapping(t testing.TB, n int) []byte {
	body := strings.Repeat("\x00", 1<<20)
	b := packZip(t, member{name: "a", body: body})
	end := bytes.LastIndex(b, []byte("PK\x05\x06"))
	start := bytes.Index(b, []byte("PK\x01\x02"))
	entry := b[start:end]
	out := slices.Clone(b[:start])
	for range n {
		out = append(out, entry...)
	}
	tail := slices.Clone(b[end:])
	le16 := func(p []byte, v int) { p[0], p[1] = byte(v), byte(v>>8) }
	le16(tail[8:], n)
	le16(tail[10:], n)
	size := len(entry) * n
	tail[12], tail[13], tail[14], tail[15] = byte(size), byte(size>>8), byte(size>>16), byte(size>>24)
	return append(out, tail...)
}

// lying is a zip whose file is longer than it says, in both places.
func lying(t testing.TB) []byte {
	b := packZip(t, member{name: "a", body: strings.Repeat("\x00", 1<<20)})
	i := bytes.Index(b, []byte("PK\x01\x02"))
	b[i+24], b[i+25], b[i+26], b[i+27] = 1, 0, 0, 0
	return b
}

// names is a zip of many empty files.
func names(t testing.TB, n int) []byte {
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for i := range n {
		if _, err := w.CreateHeader(&zip.FileHeader{Name: fmt.Sprintf("%d-%s", i, strings.Repeat("n", 200))}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestDamaged(t *testing.T) {
	whole := packTar(t, member{name: "a", body: strings.Repeat("x", 2000)})
	for name, b := range map[string][]byte{"cut": whole[:1024], "noise": bytes.Repeat([]byte("noise"), 1000), "cut in a header": whole[:300]} {
		root, _ := target(t)
		check(t, name, Untar(root, bytes.NewReader(b), small), "")
		root, _ = target(t)
		check(t, name+" (zip)", Unzip(root, bytes.NewReader(b), int64(len(b)), small), "")
	}
	z := packZip(t, member{name: "a", body: strings.Repeat("x", 2000)})
	z[45] ^= 0xff
	root, _ := target(t)
	check(t, "flipped", Unzip(root, bytes.NewReader(z), int64(len(z)), small), "")
	enc := packZip(t, member{name: "a", body: "x"})
	i := bytes.Index(enc, []byte("PK\x01\x02"))
	enc[i+8] |= 1
	root, _ = target(t)
	check(t, "encrypted", Unzip(root, bytes.NewReader(enc), int64(len(enc)), small), "is encrypted")
}

func TestPlace(t *testing.T) {
	dir := t.TempDir()
	final := filepath.Join(dir, "final")
	broken := errors.New("broken")
	err := Place(final, func(r *os.Root) error {
		if err := r.WriteFile("half", nil, 0o600); err != nil {
			t.Fatal(err)
		}
		return broken
	})
	if left, _ := os.ReadDir(dir); !errors.Is(err, broken) || len(left) != 0 {
		t.Errorf("after a failure: %v, %v left", err, left)
	}
	fill := func(r *os.Root) error { return r.WriteFile("whole", nil, 0o600) }
	if err := Place(final, fill); err != nil {
		t.Fatal(err)
	}
	if err := Place(final, fill); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second time: %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 || shape(t, dir) != "final/\nfinal/whole " {
		t.Errorf("%s", shape(t, dir))
	}
}

// Plain leaves files and directories, all of them executable.
func TestPlain(t *testing.T) {
	all := []member{
		{name: "skill/SKILL.md", body: "text"},
		{name: "skill/out", kind: tar.TypeSymlink, body: "/etc/passwd"},
		{name: "skill/pipe", kind: tar.TypeFifo},
		{name: "skill/in", kind: tar.TypeSymlink, body: "SKILL.md"},
	}
	lim := small
	lim.Plain = true
	const want = "skill/\nskill/SKILL.md text x"
	root, dir := target(t)
	if err := Untar(root, bytes.NewReader(packTar(t, all...)), lim); err != nil || shape(t, dir) != want {
		t.Errorf("tar: %v, %s", err, shape(t, dir))
	}
	root, dir = target(t)
	b := packZip(t, all...)
	if err := Unzip(root, bytes.NewReader(b), int64(len(b)), lim); err != nil || shape(t, dir) != want {
		t.Errorf("zip: %v, %s", err, shape(t, dir))
	}
	root, _ = target(t)
	check(t, "a way out", Untar(root, bytes.NewReader(packTar(t, member{name: "../x", kind: tar.TypeSymlink, body: "y"})), lim), "has .. in its name")
}
