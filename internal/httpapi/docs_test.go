package httpapi

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestEveryRouteIsDocumented holds the table of docs/api.md to the routes and
// to the credentials that they take.
func TestEveryRouteIsDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	for _, m := range regexp.MustCompile("(?m)^\\| `((?:GET|POST|DELETE) [^`]+)` \\| ([^|]+) \\|").FindAllStringSubmatch(string(page), -1) {
		documented = append(documented, m[1]+": "+m[2])
	}
	var routes []string
	for _, r := range (&server{}).routes() {
		takes := []string{"API key"}
		if r.access&environmentKey != 0 {
			takes = append(takes, "environment key")
		}
		if r.access&sessionsToken != 0 {
			takes = append(takes, "sessions token")
		}
		routes = append(routes, strings.ReplaceAll(r.pattern, "...}", "}")+": "+strings.Join(takes, ", "))
	}
	for _, r := range routes {
		if !slices.Contains(documented, r) {
			t.Errorf("docs/api.md lacks the row of %s", r)
		}
	}
	for _, d := range documented {
		if !slices.Contains(routes, d) {
			t.Errorf("docs/api.md has a row of what is no route: %s", d)
		}
	}
}
