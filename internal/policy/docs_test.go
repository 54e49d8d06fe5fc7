package policy

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestPage reads the examples of docs/policy.md as a user would copy them; the
// first one has every key.
func TestPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(page), -1)
	if len(blocks) == 0 {
		t.Fatal("the page has no example")
	}
	for _, b := range blocks {
		p, err := Parse("example", []byte(strings.ReplaceAll(b[1], "/srv/datasets", t.TempDir())))
		if err != nil {
			t.Error(err)
		}
		if _, err := p.Egress(func(string) (string, bool) { return "a secret of the worker", true }); err != nil &&
			!strings.Contains(err.Error(), "/etc/berth/index-token") {
			t.Error(err)
		}
	}
	keys := []string{"image", "limits", "network", "allow", "private", "secrets", "env", "hosts", "from_env", "from_file", "header", "template",
		"mounts", "source", "target", "read_only", "user", "uid", "output", "best_effort"}
	for _, l := range limitNames {
		keys = append(keys, string(l))
	}
	for _, k := range keys {
		if !regexp.MustCompile(`(?m)(^|[ {])` + k + `:`).MatchString(blocks[0][1]) {
			t.Errorf("the complete example lacks %s", k)
		}
	}
}
