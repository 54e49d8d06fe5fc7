package toolset

import (
	"errors"
	"path"
	"slices"
	"strings"
)

// A globPattern matches paths part by part, so that a walk can leave out the
// directories that lead nowhere. Its states are sets of places in it.
type globPattern struct {
	alts [][]globPart
	base []int // base[i] is the number of alts[i]'s first state
	n    int   // states
}

type globPart struct {
	any  bool   // "**": any number of parts, none included
	lit  string // the part itself, when exact
	suf  string // "*suf", when tail
	pat  string // for path.Match else
	kind byte   // 'l'iteral, 't'ail, 'm'atch
}

const (
	maxGlobBytes = 4096
	maxGlobAlts  = 1024
)

var errTooManyAlts = errors.New("has too many alternatives")

// compileGlob reads a pattern: * and ? within a part, [a-z] and [!a-z], \ to
// quote, {a,b} also across parts, ** as a part of its own for any depth.
func compileGlob(pattern string) (*globPattern, error) {
	if len(pattern) > maxGlobBytes {
		return nil, errors.New("is too long")
	}
	texts, err := expandBraces(pattern)
	if err != nil {
		return nil, err
	}
	g := &globPattern{}
	for _, text := range texts {
		var parts []globPart
		for part := range strings.SplitSeq(text, "/") {
			if part == "" || part == "." {
				continue
			}
			p, err := compilePart(part)
			if err != nil {
				return nil, err
			}
			if p.any && len(parts) > 0 && parts[len(parts)-1].any {
				continue
			}
			parts = append(parts, p)
		}
		g.alts = append(g.alts, parts)
		g.base = append(g.base, g.n)
		g.n += len(parts) + 1
	}
	return g, nil
}

func compilePart(part string) (globPart, error) {
	if part == "**" {
		return globPart{any: true}, nil
	}
	for strings.Contains(part, "**") {
		part = strings.ReplaceAll(part, "**", "*")
	}
	part = strings.ReplaceAll(part, "[!", "[^")
	if _, err := path.Match(part, ""); err != nil {
		return globPart{}, errors.New("is not a valid pattern")
	}
	if !strings.ContainsAny(part, `*?[\`) {
		return globPart{kind: 'l', lit: part}, nil
	}
	if rest := part[1:]; part[0] == '*' && !strings.ContainsAny(rest, `*?[\`) {
		return globPart{kind: 't', suf: rest}, nil
	}
	return globPart{kind: 'm', pat: part}, nil
}

func (p *globPart) match(name string) bool {
	switch p.kind {
	case 'l':
		return name == p.lit
	case 't':
		return strings.HasSuffix(name, p.suf)
	}
	ok, _ := path.Match(p.pat, name)
	return ok
}

// expandBraces writes {a,b} out. A brace without a comma or without its end
// stands for itself.
func expandBraces(pattern string) ([]string, error) {
	done, todo := []string(nil), []string{pattern}
	for len(todo) > 0 {
		text := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		open, choices, end := braces(text)
		if choices == nil {
			done = append(done, text)
		}
		for _, c := range slices.Backward(choices) {
			todo = append(todo, text[:open]+c+text[end:])
		}
		if len(todo)+len(done) > maxGlobAlts {
			return nil, errTooManyAlts
		}
	}
	return done, nil
}

// braces finds the first {a,b} of a text, its choices and where it ends.
func braces(text string) (open int, choices []string, end int) {
	for open = 0; open < len(text); open++ {
		if text[open] == '\\' {
			open++
			continue
		}
		if text[open] != '{' {
			continue
		}
		depth, from, found := 0, open+1, []string(nil)
	scan:
		for i := open; i < len(text); i++ {
			switch text[i] {
			case '\\':
				i++
			case '{':
				depth++
			case ',':
				if depth == 1 {
					found, from = append(found, text[from:i]), i+1
				}
			case '}':
				if depth--; depth > 0 {
					continue
				}
				if found == nil {
					break scan
				}
				return open, append(found, text[from:i]), i + 1
			}
		}
	}
	return 0, nil, 0
}

// states is a set of places reached in the pattern.
type states []uint64

func (s states) has(i int) bool { return s[i/64]&(1<<(i%64)) != 0 }
func (s states) add(i int)      { s[i/64] |= 1 << (i % 64) }
func (s states) empty() bool    { return !slices.ContainsFunc(s, func(w uint64) bool { return w != 0 }) }

// start is where a walk begins, before the first part of a path.
func (g *globPattern) start() states {
	s := make(states, g.n/64+1)
	for a := range g.alts {
		g.enter(s, a, 0)
	}
	return s
}

// enter adds a place, and those behind a "**" that may match nothing.
func (g *globPattern) enter(s states, alt, i int) {
	s.add(g.base[alt] + i)
	if parts := g.alts[alt]; i < len(parts) && parts[i].any {
		s.add(g.base[alt] + i + 1)
	}
}

// step goes on by one part of a path. matched says that the path up to here
// matches the pattern; next is for what lies below it, and nil unless asked
// for by below.
func (g *globPattern) step(from states, name string, below bool) (matched bool, next states) {
	if below {
		next = make(states, len(from))
	}
	for a, parts := range g.alts {
		for i := range parts {
			if !from.has(g.base[a] + i) {
				continue
			}
			to := i
			if p := &parts[i]; !p.any {
				if !p.match(name) {
					continue
				}
				to++
			}
			matched = matched || to == len(parts) || to == len(parts)-1 && parts[to].any
			if below {
				g.enter(next, a, to)
			}
		}
	}
	return matched, next
}

// climbs says whether a pattern has a ".." part, braces written out.
func climbs(pattern string) bool {
	texts, err := expandBraces(pattern)
	if err != nil {
		return false // compileGlob says so
	}
	return slices.ContainsFunc(texts, func(t string) bool { return slices.Contains(strings.Split(t, "/"), "..") })
}
