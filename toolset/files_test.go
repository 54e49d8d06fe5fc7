package toolset_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/berthdev/berth/toolset"
)

func TestRead(t *testing.T) {
	w := newWorld(t, toolset.Options{})
	w.put("three", "one\ntwo\nthree\n")
	w.put("open", "one\ntwo")
	w.put("empty", "")
	w.put("latin", "caf\xe9 au lait\n")
	w.put("elf", "\x7fELF\x02\x01\x01\x00\x00\x00")
	w.put("nul", "some\x00thing")
	w.put("noise", strings.Repeat("\x01\x90\xfe\x85", 50))
	w.put("limit", strings.Repeat("x", 256<<10))
	w.put("over", strings.Repeat("0123456789abcde\n", 20_000)) // 320,000 bytes
	w.put("line", strings.Repeat("x", 300<<10)+"\nshort\n")
	w.put("sub/f", "x")
	must(t, os.Symlink("/workspace/sub/f", filepath.Join(w.root, "workspace/link")))
	must(t, os.Symlink("/etc/passwd", filepath.Join(w.root, "workspace/escape")))
	must(t, syscall.Mkfifo(filepath.Join(w.root, "workspace/fifo"), 0o644))

	file := func(name string, more ...any) args {
		a := args{"file_path": name}
		if len(more) > 0 {
			a["view_range"] = more
		}
		return a
	}
	w.run("read", []step{
		{file("three"), "one\ntwo\nthree\n"},
		{file("/workspace/three"), "one\ntwo\nthree\n"},
		{file("link"), "x"},
		{file("empty"), "(no output)"},
		{file("latin"), "caf\uFFFD au lait\n"},
		{file("three", 2, 2), "two"},
		{file("three", 1, 2), "one\ntwo"},
		{file("three", 2, -1), "two\nthree\n"},
		{file("three", 2, 0), "two\nthree\n"},
		{file("three", 0, 1), "one"},
		{file("three", -7, 1.0), "one"},
		{file("three", 3, 99), "three\n"},
		{file("open", 2, 2), "two"},
		{file("three", 9, 12), "(no output)"},
		{file("three", 3, 2), "(no output)"},
		{args{"file_path": "three", "view_range": []int{}}, "one\ntwo\nthree\n"},
		{args{"file_path": "three", "view_range": nil}, "one\ntwo\nthree\n"},
		{file("three", 1), "ERROR read: view_range must be [start_line, end_line]"},
		{file("three", 1, 2, 3), "ERROR read: view_range must be [start_line, end_line]"},
		{file("three", "1", 2), `ERROR invalid read input: "1" is not a whole number`},
		{args{"file_path": "three", "view_range": 3}, "ERROR invalid read input: view_range must be an array"},
		{args{}, "ERROR read: file_path is required"},
		{args{"file_path": 3}, "ERROR invalid read input: file_path must be a string"},
		{file("limit"), strings.Repeat("x", 256<<10)},
		{file("over"), "ERROR read: over is 320000 bytes, exceeds 262144-byte limit. Use the view_range parameter to read specific line ranges, e.g. view_range: [1, 500]."},
		{file("over", 19_999, 20_000), "0123456789abcde\n0123456789abcde"},
		{file("over", 20_000, -1), "0123456789abcde\n"},
		{file("over", 1, 20_000), "ERROR read: view_range [1, 20000] of over exceeds 262144-byte limit. Narrow the view_range to read a smaller portion."},
		{file("line", 1, 1), "ERROR read: line 1 of line alone exceeds 262144-byte limit. The read tool cannot return part of a line, so view_range cannot narrow this further."},
		{file("line", 2, 2), "short"},
		{file("nothing"), "ERROR read nothing: no such file or directory"},
		{file("three/x"), "ERROR read three/x: not a directory"},
		{file("sub"), "ERROR read: sub is not a regular file"},
		{file("fifo"), "ERROR read: fifo is not a regular file"},
		{file("escape"), `ERROR read: path "escape" is outside the session's working directory and its other permitted directories`},
		{file("/etc/passwd"), `ERROR read: path "/etc/passwd" is outside the session's working directory and its other permitted directories`},
		{file("../../etc/passwd"), `ERROR read: path "../../etc/passwd" is outside the session's working directory and its other permitted directories`},
		{file(strings.Repeat("n", 256)), "ERROR read: path \"" + strings.Repeat("n", 256) + "\": file name too long"},
		{file("elf"), "ERROR read: elf is not text but an ELF program or library (10 bytes). Use bash to look into it."},
		{file("nul"), "ERROR read: nul is not text but binary data (10 bytes). Use bash to look into it."},
		{file("noise"), "ERROR read: noise is not text but binary data (200 bytes). Use bash to look into it."},
	})
}

func TestReadShowsPictures(t *testing.T) {
	w := newWorld(t, toolset.Options{})
	png := "\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + strings.Repeat("\x00\x01", 5000)
	for name, c := range map[string]struct{ content, block, media string }{
		"a.png":       {png, "image", "image/png"},
		"named.wrong": {png, "image", "image/png"},
		"b.jpg":       {"\xff\xd8\xff\xe0\x00\x10JFIF\x00", "image", "image/jpeg"},
		"c.gif":       {"GIF89a\x01\x00\x01\x00\x00", "image", "image/gif"},
		"d.webp":      {"RIFF\x10\x00\x00\x00WEBPVP8 ", "image", "image/webp"},
		"e.pdf":       {"%PDF-1.7\nplain so far", "document", "application/pdf"},
	} {
		w.put(name, c.content)
		in, _ := json.Marshal(args{"file_path": name})
		blocks, isError := w.Run(t.Context(), "", "read", in)
		if len(blocks) != 1 || isError || blocks[0].Type != c.block || blocks[0].Source == nil {
			t.Errorf("%s: %+v", name, blocks)
			continue
		}
		s := blocks[0].Source
		if data, err := base64.StdEncoding.DecodeString(s.Data); s.Type != "base64" || s.MediaType != c.media || err != nil || string(data) != c.content {
			t.Errorf("%s: %s %s, %d bytes, %v", name, s.Type, s.MediaType, len(data), err)
		}
		want := fmt.Sprintf("ERROR read: %s is %s; view_range is for text", name, c.media)
		if got := w.call("read", args{"file_path": name, "view_range": []int{1, 2}}); got != want {
			t.Errorf("%s with a range: %q", name, got)
		}
	}
	w.put("text", "GIF89a is how it begins\n")
	w.put("big.png", png+strings.Repeat("\x00", 5<<20/4*3-len(png)+1))
	w.put("big.pdf", "%PDF-1.7"+strings.Repeat(" ", 20<<20))
	w.run("read", []step{
		{args{"file_path": "text"}, "GIF89a is how it begins\n"},
		{args{"file_path": "big.png"}, "ERROR read: big.png is image/png of more than 3932160 bytes, the most that can be shown. Make it smaller first."},
		{args{"file_path": "big.pdf"}, "ERROR read: big.pdf is application/pdf of more than 20971520 bytes, the most that can be shown. Make it smaller first."},
	})
}

func TestWrite(t *testing.T) {
	w := newWorld(t, toolset.Options{})
	w.put("script", "old")
	must(t, os.Chmod(filepath.Join(w.root, "workspace/script"), 0o755))
	must(t, os.Link(filepath.Join(w.root, "workspace/script"), filepath.Join(w.root, "workspace/other")))
	must(t, syscall.Mkfifo(filepath.Join(w.root, "workspace/fifo"), 0o644))
	w.run("write", []step{
		{args{"file_path": "a/b/new", "content": "héllo\n"}, "wrote 7 bytes to a/b/new"},
		{args{"file_path": "/workspace/empty", "content": ""}, "wrote 0 bytes to /workspace/empty"},
		{args{"file_path": "/mnt/session/outputs/r.txt", "content": "r"}, "wrote 1 bytes to /mnt/session/outputs/r.txt"},
		{args{"file_path": "script", "content": "#!/bin/sh"}, "wrote 9 bytes to script"},
		{args{"content": "x"}, "ERROR write: file_path is required"},
		{args{"file_path": "x"}, "ERROR write: content is required"},
		{args{"file_path": "x", "content": []string{}}, "ERROR invalid write input: content must be a string"},
		{args{"file_path": "a", "content": "x"}, "ERROR write a: is a directory"},
		{args{"file_path": "script/x", "content": "x"}, "ERROR write script/x: not a directory"},
		{args{"file_path": "fifo", "content": "x"}, "ERROR write: fifo is not a regular file"},
		{args{"file_path": "/etc/x", "content": "x"}, `ERROR write: path "/etc/x" is outside the session's working directory and its other permitted directories`},
		{args{"file_path": "/mnt/memory/shared/x", "content": "x"}, `ERROR write: /mnt/memory/shared/x is inside a read-only directory`},
	})
	if got := w.content("a/b/new"); got != "héllo\n" {
		t.Errorf("new is %q", got)
	}
	if got := w.content("other"); got != "#!/bin/sh" {
		t.Errorf("the hard link shows %q", got)
	}
	if info, err := os.Stat(filepath.Join(w.root, "workspace/script")); err != nil || info.Mode() != 0o755 {
		t.Errorf("the script's mode is %v, %v", info.Mode(), err)
	}
}

func TestEdit(t *testing.T) {
	w := newWorld(t, toolset.Options{MaxEditBytes: 1 << 20})
	edit := func(file, old, new string, all ...bool) args {
		a := args{"file_path": file, "old_string": old, "new_string": new}
		if len(all) > 0 {
			a["replace_all"] = all[0]
		}
		return a
	}
	for _, c := range []struct {
		in                   args
		before, after, wants string
	}{
		{edit("f", "two", "2"), "one two three", "one 2 three", "edited f (1 replacement(s))"},
		{edit("f", "two ", ""), "one two three", "one three", "edited f (1 replacement(s))"},
		{edit("f", "x", "x"), "x", "x", "edited f (1 replacement(s))"},
		{edit("f", "x", "yy", true), "x x x", "yy yy yy", "edited f (3 replacement(s))"},
		{edit("f", "x", "y"), "x x x", "x x x", "ERROR edit: old_string appears 3 times in f (must be unique)"},
		{edit("f", "z", "y"), "x", "x", "ERROR edit: old_string not found in f"},
		{edit("f", "z", "y", true), "x", "x", "ERROR edit: old_string not found in f"},
		{edit("f", "", "y"), "x", "x", "ERROR edit: old_string is required"},
		{args{"file_path": "f", "old_string": "x"}, "x", "x", "ERROR edit: new_string is required"},
		{args{"old_string": "x", "new_string": "y"}, "x", "x", "ERROR edit: file_path is required"},
		{args{"file_path": "f", "old_string": "x", "new_string": "y", "replace_all": 1}, "x", "x", "ERROR invalid edit input: replace_all must be true or false"},
		{edit("f", "b\nc", "B\nC\nD"), "a\r\nb\r\nc\r\n", "a\r\nB\r\nC\r\nD\r\n", "edited f (1 replacement(s))"},
		{edit("f", "b", "b\nb2"), "a\r\nb\r\nc\r\n", "a\r\nb\r\nb2\r\nc\r\n", "edited f (1 replacement(s))"},
		{edit("f", "b\r\nc", "B"), "a\r\nb\r\nc\r\n", "a\r\nB\r\n", "edited f (1 replacement(s))"},
		{edit("f", "\nc", "\nC\nD"), "a\r\nb\r\nc\r\n", "a\r\nb\r\nC\r\nD\r\n", "edited f (1 replacement(s))"},
		{edit("f", "a\nb", "A\nB"), "a\nb\r\nc\r\nd\r\n", "A\nB\r\nc\r\nd\r\n", "edited f (1 replacement(s))"},
		{edit("f", "b\nc", "B"), "a\nb\nc\n", "a\nB\n", "edited f (1 replacement(s))"},
		{edit("f", "é", "e"), "\xff é \x00", "\xff e \x00", "edited f (1 replacement(s))"},
		{edit("f", "x", strings.Repeat("y", 1<<19), true), "x x x", "x x x", "ERROR edit: f would grow to 1572866 bytes, exceeds 1048576-byte limit"},
		{edit("f", "x", "y"), strings.Repeat("x", 1<<20+1), strings.Repeat("x", 1<<20+1),
			"ERROR edit: f is 1048577 bytes, exceeds 1048576-byte limit. The edit tool loads the whole file and cannot modify a file this large."},
		{edit("nothing", "x", "y"), "", "", "ERROR edit nothing: no such file or directory"},
		{edit(".", "x", "y"), "", "", "ERROR edit: . is not a regular file"},
		{edit("/etc/passwd", "x", "y"), "", "", `ERROR edit: path "/etc/passwd" is outside the session's working directory and its other permitted directories`},
	} {
		w.put("f", c.before)
		if got := w.call("edit", c.in); got != c.wants {
			t.Errorf("edit %.150v\n got %q\nwant %q", c.in, got, c.wants)
		}
		if got := w.content("f"); got != c.after {
			t.Errorf("edit %.150v\nleft %.200q\nwant %.200q", c.in, got, c.after)
		}
	}
}

// What the official tools lose in an edit (W13): the execute bit, hard links.
func TestEditKeepsWhatAFileIs(t *testing.T) {
	w := newWorld(t, toolset.Options{})
	big := strings.Repeat("0123456789abcde\n", 40_000)
	w.put("run", big+"end")
	run := filepath.Join(w.root, "workspace/run")
	must(t, os.Chmod(run, 0o750))
	must(t, os.Link(run, run+".link"))
	if got := w.call("edit", args{"file_path": "run", "old_string": "end", "new_string": "END"}); got != "edited run (1 replacement(s))" {
		t.Fatal(got)
	}
	a, err := os.Stat(run)
	must(t, err)
	b, err := os.Stat(run + ".link")
	must(t, err)
	if a.Mode() != 0o750 || !os.SameFile(a, b) {
		t.Errorf("mode %v, still one file: %v", a.Mode(), os.SameFile(a, b))
	}
	if !bytes.HasSuffix([]byte(w.content("run.link")), []byte("\nEND")) {
		t.Error("the link does not show the edit")
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
