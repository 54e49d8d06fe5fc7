package httpapi

import (
	"net/http"
	"strings"

	"github.com/berthdev/berth/internal/auth"
	"github.com/berthdev/berth/internal/plane"
)

// access is a set of credentials that a route accepts.
type access uint8

const (
	apiKey         access = 1 << iota // an API key of the workspace
	environmentKey                    // a key of the environment in the path
	sessionsToken                     // a live token of the item or session in the path
	deadToken                         // also one whose item has ended: the queue knows what is left to it
)

// admit finds out who calls and whether the route is for them.
func (s *server) admit(c *call, rt route) error {
	presented, err := credential(c.r, rt.stream)
	if err != nil {
		return err
	}
	if c.who, err = s.cfg.Keys.Check(c.ctx(), presented); err != nil {
		return err
	}
	if err := s.limits.take(c.who.KeyID, s.now()); err != nil {
		return err
	}
	if err := checkPath(c.r, rt); err != nil {
		return err
	}
	switch c.who.Kind {
	case plane.CallerAPI:
		if rt.access&apiKey == 0 {
			return notFor("an API key")
		}
		return nil
	case plane.CallerEnvironment:
		if rt.access&environmentKey == 0 {
			return notFor("an environment key")
		}
		return s.admitEnvironmentKey(c)
	default:
		if rt.access&sessionsToken == 0 {
			return notFor("a sessions token")
		}
		return admitToken(c, rt.access)
	}
}

func notFor(what string) error {
	return plane.Errorf(plane.Forbidden, "%s cannot be used for this call", what)
}

// admitEnvironmentKey holds a key to its environment: a foreign environment is
// forbidden whether it exists or not, a foreign session is not found.
func (s *server) admitEnvironmentKey(c *call) error {
	if env := c.path("environment"); env != "" && env != c.who.EnvironmentID {
		return plane.Errorf(plane.Forbidden, "this environment key belongs to another environment")
	}
	id := c.path("session")
	if id == "" {
		return nil
	}
	sess, err := s.cfg.Store.Session(c.ctx(), id)
	if err != nil && plane.KindOf(err) != plane.NotFound {
		return err
	}
	if err != nil || sess.EnvironmentID != c.who.EnvironmentID {
		return plane.Errorf(plane.NotFound, "there is no session %s", id)
	}
	return nil
}

// admitToken holds a sessions token to its item and session, and to what its
// delivery's end has left it.
func admitToken(c *call, a access) error {
	for _, p := range []struct{ name, own string }{
		{"environment", c.who.EnvironmentID}, {"work", c.who.WorkID}, {"session", c.who.SessionID},
	} {
		if v := c.path(p.name); v != "" && v != p.own {
			return plane.Errorf(plane.Forbidden, "this sessions token belongs to another %s", p.name)
		}
	}
	switch {
	case c.who.Live(), a&deadToken != 0:
		return nil
	}
	return plane.Errorf(plane.Unauthenticated, "the work item of this sessions token has ended or was given to another worker")
}

// credential is what the request presents: the bearer when there is one, else
// the x-api-key. A stream takes no request with both.
func credential(r *http.Request, stream bool) (string, error) {
	key := strings.TrimSpace(r.Header.Get("X-Api-Key"))
	header := strings.TrimSpace(r.Header.Get("Authorization"))
	scheme, bearer, _ := strings.Cut(header, " ")
	bearer = strings.TrimSpace(bearer)
	if header != "" && (!strings.EqualFold(scheme, "Bearer") || bearer == "") {
		return "", plane.Errorf(plane.Unauthenticated, "the Authorization header is not of the form: Bearer CREDENTIAL")
	}
	switch {
	case bearer != "" && key != "" && stream:
		return "", plane.Errorf(plane.Invalid, "the event stream takes one credential: send x-api-key or Authorization, not both")
	case bearer != "":
		return bearer, nil
	case key == "":
		return "", plane.Errorf(plane.Unauthenticated, "no credential: send an API key as x-api-key, or an environment key or sessions token as Authorization: Bearer")
	}
	if kind, ok := auth.Kind(key); ok && kind != plane.CallerAPI {
		return "", plane.Errorf(plane.Unauthenticated, "x-api-key takes an API key; send this credential as Authorization: Bearer")
	}
	return key, nil
}

// prefixes of the ids in paths, by their names in the routes.
var prefixes = map[string]string{
	"environment": plane.PrefixEnvironment, "work": plane.PrefixWork, "agent": plane.PrefixAgent,
	"session": plane.PrefixSession, "thread": plane.PrefixThread, "resource": "sesrsc_", "key": "",
}

// checkPath answers ids that cannot be ids, or are ids of something else, with
// NotFound before anything is looked up.
func checkPath(r *http.Request, rt route) error {
	for _, name := range rt.params {
		prefix, isID := prefixes[name]
		v := r.PathValue(name)
		if !isID {
			if len(v) > 256 {
				return plane.Errorf(plane.NotFound, "there is no %s %s", name, clip(v))
			}
			continue
		}
		if !strings.HasPrefix(v, prefix) || !idText(v) {
			return plane.Errorf(plane.NotFound, "there is no %s %q", name, clip(v))
		}
	}
	return nil
}

// idText says that v has the letters and the length of an id.
func idText(v string) bool {
	if v == "" || len(v) > 128 {
		return false
	}
	for i := range len(v) {
		ch := v[i]
		if (ch < '0' || ch > '9') && (ch < 'A' || ch > 'Z') && (ch < 'a' || ch > 'z') && ch != '_' && ch != '-' {
			return false
		}
	}
	return true
}
