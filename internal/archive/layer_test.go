package archive

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func layers(t *testing.T, all ...[]member) (string, error) {
	t.Helper()
	root, dir := target(t)
	for _, l := range all {
		if _, err := Unlayer(root, bytes.NewReader(packTar(t, l...)), small); err != nil {
			return dir, err
		}
	}
	return dir, nil
}

func TestLayers(t *testing.T) {
	file := func(name, body string) member { return member{name: name, body: body} }
	link := func(name, to string) member { return member{name: name, kind: tar.TypeSymlink, body: to} }
	hard := func(name, to string) member { return member{name: name, kind: tar.TypeLink, body: to} }
	for name, c := range map[string]struct {
		layers [][]member
		want   string
	}{
		"over each other": {[][]member{{file("a", "1"), file("d/b", "1")}, {file("a", "2"), file("d/c", "2")}}, "a 2\nd/\nd/b 1\nd/c 2"},
		"whiteout":        {[][]member{{file("d/a", "1"), file("d/b", "1"), file("e/f", "1")}, {file("d/.wh.a", ""), file(".wh.e", "")}}, "d/\nd/b 1"},
		"whiteout spares its own layer": {[][]member{{file("d/a", "1"), file("d/b", "1")},
			{file("d/a", "2"), file("d/.wh.a", ""), file(".wh.d", ""), file("d/c", "2")}}, "d/\nd/a 2\nd/c 2"},
		"whiteout first":                      {[][]member{{file("d/a", "1")}, {file(".wh.d", ""), file("d/c", "2")}}, "d/\nd/c 2"},
		"whiteout of nothing":                 {[][]member{{file("x/.wh.a", ""), file(".wh.y", ""), file("a", "1")}}, "a 1"},
		"opaque":                              {[][]member{{file("d/a", "1"), file("d/s/b", "1"), file("e", "1")}, {file("d/s/c", "2"), file("d/.wh..wh..opq", "")}}, "d/\nd/s/\nd/s/c 2\ne 1"},
		"opaque at the top":                   {[][]member{{file("a", "1")}, {file(".wh..wh..opq", ""), file("b", "2")}}, "b 2"},
		"old storage's files":                 {[][]member{{file(".wh..wh.plnk", "x"), file(".wh..wh.aufs", "x"), file("a", "1")}}, "a 1"},
		"directory becomes file":              {[][]member{{file("d/a", "1")}, {file("d", "2")}}, "d 2"},
		"file becomes directory":              {[][]member{{file("d", "1")}, {member{name: "d/", kind: tar.TypeDir}, file("d/a", "2")}}, "d/\nd/a 2"},
		"link becomes directory":              {[][]member{{link("d", "/etc")}, {member{name: "d/", kind: tar.TypeDir}, file("d/a", "2")}}, "d/\nd/a 2"},
		"twice in one layer":                  {[][]member{{file("a", "1"), file("a", "2")}}, "a 2"},
		"below a link":                        {[][]member{{member{name: "usr/lib/", kind: tar.TypeDir}, link("lib", "usr/lib")}, {file("lib/x", "2")}}, "lib -> usr/lib\nusr/\nusr/lib/\nusr/lib/x 2"},
		"below an absolute link":              {[][]member{{link("a", "/d/e"), file("a/x", "1")}}, "a -> /d/e\nd/\nd/e/\nd/e/x 1"},
		"below an absolute link further down": {[][]member{{link("x/a", "/d/e"), file("x/a/f", "1")}}, "d/\nd/e/\nd/e/f 1\nx/\nx/a -> /d/e"},
		"below a link that leads out":         {[][]member{{link("a", "../../../outside"), file("a/secret", "mine")}}, "a -> ../../../outside\noutside/\noutside/secret mine"},
		"over a link to a file":               {[][]member{{file("t", "1"), link("a", "t")}, {file("a", "2")}}, "a 2\nt 1"},
		"over a link that leads out":          {[][]member{{link("a", "/outside/secret")}, {file("a", "2")}}, "a 2"},
		"hard link":                           {[][]member{{file("a", "1"), hard("d/b", "a")}, {hard("c", "/d/b")}}, "a 1\nc 1\nd/\nd/b 1"},
		"hard link, then one replaced":        {[][]member{{file("a", "1"), hard("b", "a")}, {file("a", "2")}}, "a 2\nb 1"},
		"hard link to a link":                 {[][]member{{link("a", "/outside/secret"), hard("b", "a")}}, "a -> /outside/secret\nb -> /outside/secret"},
		"hard link by a link":                 {[][]member{{file("d/a", "1"), link("e", "/d"), hard("b", "e/a")}}, "b 1\nd/\nd/a 1\ne -> /d"},
		"devices and FIFOs":                   {[][]member{{member{name: "dev/sda", kind: tar.TypeBlock}, member{name: "dev/null", kind: tar.TypeChar}, member{name: "f", kind: tar.TypeFifo}, file("a", "1")}}, "a 1"},
		"setuid":                              {[][]member{{member{name: "su", body: "1", mode: 0o6755}, member{name: "d/", kind: tar.TypeDir, mode: 0o3777}}}, "d/\nsu 1 x"},
		"absolute names":                      {[][]member{{file("/etc/a", "1")}}, "etc/\netc/a 1"},
		"case twins":                          {[][]member{{file("a", "1"), file("A", "2")}}, "A 2\na 1"},
		"bad UTF-8":                           {[][]member{{file("a\xff", "1")}}, "a\xff 1"},
		"the target itself":                   {[][]member{{member{name: "./", kind: tar.TypeDir, mode: 0o700}, file("./a", "1")}}, "a 1"},
		"extended attributes": {[][]member{{member{name: "a", body: "1", pax: map[string]string{
			"SCHILY.xattr.user.overlay.redirect": "/etc", "SCHILY.xattr.trusted.overlay.opaque": "y", "SCHILY.xattr.security.capability": "x"}}}}, "a 1"},
	} {
		dir, err := layers(t, c.layers...)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := shape(t, dir); got != c.want {
			t.Errorf("%s:\n%s\nwant\n%s", name, got, c.want)
		}
	}
}

func TestLayerModes(t *testing.T) {
	dir, err := layers(t, []member{
		{name: "shadow", body: "x", mode: 0o640}, {name: "none", body: "x", mode: 0o1000}, {name: "tmp/", kind: tar.TypeDir, mode: 0o1777}, {name: "d/", kind: tar.TypeDir, mode: 0o2050},
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]os.FileMode{"shadow": 0o640, "none": 0o400, "tmp": os.ModeDir | os.ModeSticky | 0o777, "d": os.ModeDir | 0o750} {
		if st, err := os.Stat(filepath.Join(dir, name)); err != nil || st.Mode() != want {
			t.Errorf("%s: %v, want %v (%v)", name, st.Mode(), want, err)
		}
	}
}

func TestLayerRefuses(t *testing.T) {
	link := func(name, to string) member { return member{name: name, kind: tar.TypeSymlink, body: to} }
	for name, c := range map[string]struct {
		layer []member
		says  string
	}{
		"up":                            {[]member{{name: "../outside/x", body: "x"}}, "has .. in its name"},
		"up by whiteout":                {[]member{{name: "../outside/.wh.secret"}}, "has .. in its name"},
		"whiteout of the parent":        {[]member{{name: "d/", kind: tar.TypeDir}, {name: "d/.wh..."}}, ""},
		"whiteout of nothing":           {[]member{{name: ".wh."}}, "hides what is no name"},
		"below a whiteout":              {[]member{{name: ".wh.a/b"}}, "below a whiteout"},
		"links without end":             {[]member{link("a", "b"), link("b", "a"), {name: "a/x"}}, "links without end"},
		"links far about":               {[]member{link("a", strings.Repeat("x/../", 300)+"y"), {name: "x/1"}, link("b", "a"), {name: "a/x"}}, "go too far about"},
		"deep by links":                 {[]member{link("a", "b/b/b/b/b/b/b/b/b"), {name: "a/c/c/x"}}, "deeper than 10"},
		"hard link out":                 {[]member{{name: "a", kind: tar.TypeLink, body: "../outside/secret"}}, "what is no path"},
		"hard link out by a link":       {[]member{link("o", "../outside"), {name: "a", kind: tar.TypeLink, body: "o/secret"}}, "not there"},
		"hard link to what it replaces": {[]member{{name: "d/f"}, {name: "d", kind: tar.TypeLink, body: "d/f"}}, "it replaces"},
		"below a file":                  {[]member{{name: "a"}, {name: "a/b"}}, "no directory"},
		"an unknown kind":               {[]member{{name: "a", kind: '9'}}, "unknown kind"},
		"a link to nothing":             {[]member{link("a", "")}, "what is no path"},
	} {
		_, err := layers(t, c.layer)
		check(t, name, err, c.says)
	}
}
