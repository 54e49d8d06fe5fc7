package stage

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berthdev/berth/api"
)

var commit = strings.Repeat("a1", 20)
var digest = strings.Repeat("0f", 32)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		name string
		m    api.Metadata
		want string // names with what matters of each, or part of the error
	}{
		{"nothing", api.Metadata{"team": "x", "inputs": "file:///x"}, ""},
		{"one file", api.Metadata{"input_file": "file:///data/a.csv"}, "file a.csv"},
		{"with options", api.Metadata{"input_file": "https://h/x?token=1#name=in/a.csv&sha256=" + digest}, "https in/a.csv " + digest},
		{"a digest behind", api.Metadata{"input_file": "https://h/a%20b sha256:" + strings.ToUpper(digest)}, "https a b " + digest},
		{"words", api.Metadata{"input_files": "file:///a\n file:///b name=c\ts3://bucket/d/e"}, "file a; file c; s3 e"},
		{"a list", api.Metadata{"input_files": `["file:///a", "https://h/b name=c"]`}, "file a; https c"},
		{"suffixes", api.Metadata{"input_files.1": "file:///a", "input_files.2": "file:///b", "git.lib": "https://h/o/lib.git#commit=" + commit}, "git lib " + commit + "; file a; file b"},
		{"a repository among files", api.Metadata{"input_files": "git+https://h/o/r.git#commit=" + commit + "&name=."}, "git . " + commit},

		{"two in one", api.Metadata{"input_file": "file:///a file:///b"}, "more than one"},
		{"no list", api.Metadata{"input_files": `["a`}, "no list"},
		{"no URL", api.Metadata{"input_files": "a.csv"}, "is no URL"},
		{"http", api.Metadata{"input_file": "http://h/a"}, "no scheme"},
		{"ssh", api.Metadata{"git": "ssh://h/a#commit=" + commit}, "must be a git+https"},
		{"a password", api.Metadata{"input_file": "https://u:hunter2@h/a"}, "credentials belong"},
		{"a branch", api.Metadata{"git": "https://h/r#commit=main"}, "whole commit"},
		{"an odd option", api.Metadata{"input_file": "https://h/a#nam=x"}, "not understood"},
		{"twice", api.Metadata{"input_file": "https://h/a#name=x name=y"}, "twice"},
		{"half a digest", api.Metadata{"input_file": "https://h/a#sha256=00"}, "64 hex"},
		{"up", api.Metadata{"input_file": "https://h/a#name=../x"}, "does not lead into"},
		{"absolute", api.Metadata{"input_file": "https://h/a#name=/etc/x"}, "does not lead into"},
		{"no name", api.Metadata{"input_file": "https://h/"}, "needs a host or bucket and a path"},
		{"dots", api.Metadata{"input_file": "https://h/.."}, "does not lead into"},
		{"relative file", api.Metadata{"input_file": "file:x://"}, "absolute"},
		{"another host's file", api.Metadata{"input_file": "file://h/x"}, "file:///"},
		{"same name", api.Metadata{"input_files": "file:///a/x file:///b/x"}, "same name"},
		{"below a file", api.Metadata{"input_files": "file:///a file:///b#name=a/b"}, "would lie inside"},
		{"too many", api.Metadata{"input_files": strings.Repeat("file:///a ", 65)}, "at most 64"},
	} {
		t.Run(c.name, func(t *testing.T) {
			all, err := Parse(c.m)
			var got []string
			for _, in := range all {
				got = append(got, strings.TrimSpace(fmt.Sprint(in.Scheme, " ", in.Name, " ", in.SHA256, in.Commit)))
			}
			text := strings.Join(got, "; ")
			if err != nil {
				if text = err.Error(); !strings.Contains(text, c.want) || c.want == "" {
					t.Errorf("%v", err)
				}
			} else if text != c.want {
				t.Errorf("got %q, want %q", text, c.want)
			}
			if strings.Contains(text, "hunter2") || strings.Contains(text, "token") {
				t.Errorf("a credential shows: %s", text)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add("https://h/x#name=a/b&sha256=" + digest + " file:///x name=c")
	f.Add(`["s3://b/k name=x", "git+https://h/r.git#commit=` + commit + `"]`)
	f.Fuzz(func(t *testing.T, value string) {
		all, err := Parse(api.Metadata{"input_files": value})
		if err != nil {
			if len(err.Error()) > 4096+len(value) {
				t.Errorf("a long error: %d bytes", len(err.Error()))
			}
			return
		}
		for _, in := range all {
			if !filepath.IsLocal(in.Name) || filepath.Join("/w", in.Name) != strings.TrimSuffix("/w/"+in.Name, "/.") {
				t.Errorf("let the name %q pass", in.Name)
			}
			if in.URL.User != nil || strings.Contains(in.String(), "?") && in.URL.RawQuery != "" && strings.Contains(in.String(), in.URL.RawQuery) && len(in.URL.RawQuery) > 8 {
				t.Errorf("%s shows what it should not", in)
			}
		}
	})
}
