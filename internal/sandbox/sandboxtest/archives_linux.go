package sandboxtest

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berthdev/berth/internal/archive"
	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/toolset"
)

// testArchives brings archives that strangers made into a live session's
// working directory, in which the session has laid links that lead out. What
// archives and layers may try besides is in internal/archive and
// internal/images, which know no driver.
func testArchives(t *testing.T, d sandbox.Driver) {
	w := Start(t, d, nil)
	outside := filepath.Join(filepath.Dir(w.Spec.Dir), "outside")
	if err := os.Mkdir(outside, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(outside, "f"), []byte("untouched"), 0o666); err != nil {
		t.Fatal(err)
	}
	w.Want("mkdir skills; ln -s "+outside+" skills/there; ln -s /proc/self/root"+outside+" skills/root", "", toolset.Exited, 0)
	pack := func(members ...tar.Header) []byte {
		var b bytes.Buffer
		tw := tar.NewWriter(&b)
		for _, h := range members {
			body := ""
			if h.Typeflag == 0 {
				h.Typeflag, body = tar.TypeReg, "x"
				h.Size = 1
			}
			h.Mode = 0o6777
			if err := tw.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
			if _, err := tw.Write([]byte(body)); err != nil {
				t.Fatal(err)
			}
		}
		if err := tw.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	link := func(name, to string) tar.Header {
		return tar.Header{Name: name, Linkname: to, Typeflag: tar.TypeSymlink}
	}
	many := make([]tar.Header, 3000)
	for i := range many {
		many[i].Name = "m/" + strings.Repeat("x", i%200+1) + Nap()
	}
	skills := filepath.Join(w.Spec.Tree, "workspace/skills")
	lim := archive.Limits{Members: 2000, Bytes: 16 << 20}
	into := func(fill func(*os.Root) error) error {
		began := time.Now()
		err := archive.Place(filepath.Join(skills, "new"), fill)
		if took := time.Since(began); took > patience {
			t.Errorf("an archive took %v", took)
		}
		return err
	}
	for name, b := range map[string][]byte{
		"up":               pack(tar.Header{Name: "a"}, tar.Header{Name: "../there/f"}),
		"absolute":         pack(tar.Header{Name: outside + "/f"}),
		"a link, then it":  pack(link("d", outside), tar.Header{Name: "d/f"}),
		"a link out":       pack(link("d", "../there")),
		"a hard link out":  pack(tar.Header{Name: "h", Linkname: "../there/f", Typeflag: tar.TypeLink}),
		"a device":         pack(tar.Header{Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}),
		"twins":            pack(tar.Header{Name: "A"}, tar.Header{Name: "a"}),
		"twice":            pack(tar.Header{Name: "a"}, tar.Header{Name: "a"}),
		"no UTF-8":         pack(tar.Header{Name: "a\xff"}),
		"too many members": pack(many...),
	} {
		err := into(func(r *os.Root) error { return archive.Untar(r, bytes.NewReader(b), lim) })
		if _, ok := errors.AsType[*archive.Error](err); !ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	bomb := zipBomb(t)
	err := into(func(r *os.Root) error { return archive.Unzip(r, bytes.NewReader(bomb), int64(len(bomb)), lim) })
	if _, ok := errors.AsType[*archive.Error](err); !ok {
		t.Errorf("a bomb: %v", err)
	}
	w.Want("ls -A skills", "root\nthere\n", toolset.Exited, 0)
	if b, err := os.ReadFile(filepath.Join(outside, "f")); err != nil || string(b) != "untouched" {
		t.Errorf("outside: %q %v", b, err)
	}
	only(t, outside, "f")
	// A good one comes in, and its setuid bit does not.
	good := pack(tar.Header{Name: "run.sh"})
	if err := into(func(r *os.Root) error { return archive.Untar(r, bytes.NewReader(good), lim) }); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(filepath.Join(skills, "new/run.sh")); err != nil || info.Mode()&(os.ModeSetuid|os.ModeSetgid) != 0 {
		t.Errorf("%v %v", info, err)
	}
}

// zipBomb is small and unpacks to 64 MB.
func zipBomb(t *testing.T) []byte {
	var b bytes.Buffer
	zw := zip.NewWriter(&b)
	f, err := zw.Create("a")
	if err != nil {
		t.Fatal(err)
	}
	for range 64 {
		if _, err := f.Write(make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
