package stage

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/berthdev/berth/internal/egress"
)

const (
	maxLinkTarget = 4095
	maxGitWords   = 200      // of git's own complaint
	maxGitAnswer  = 64 << 10 // of what git says that is kept
	maxNames      = 64 << 20 // of one repository's paths together
)

// repository fetches one commit by the host's git and writes its files
// itself, straight from git's objects: nothing of the repository (hooks,
// filters, attributes, links) has a say in how. What is written is a
// repository with that commit alone.
func (s *Stager) repository(ctx context.Context, in Input, j *load) error {
	select {
	case s.gits <- struct{}{}:
		defer func() { <-s.gits }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	host, err := findGit(ctx)
	if err != nil {
		return refused("%s", err)
	}
	dir, err := os.MkdirTemp(s.cfg.Dir, "berth-git-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	root, err := os.OpenRoot(dir) // before git's user has it
	if err != nil {
		return err
	}
	defer root.Close()
	bounds := s.bounds
	bounds.file = j.total.left.Load()
	g := &git{path: host.path, dir: dir, root: root, repo: filepath.Join(dir, "repo"), bounds: bounds}
	if err := g.settle(s.cfg); err != nil {
		return err
	}
	if err := g.pin(ctx, in, s.cfg.Private); err != nil {
		return err
	}
	if err := g.fetch(ctx, in); err != nil {
		return err
	}
	if err := g.files(ctx, in, j); err != nil {
		return err
	}
	return g.keep(ctx, in, j)
}

// git runs the host's git in a folder of its own, with no settings but these.
type git struct {
	path, dir, repo string
	root            *os.Root // of dir
	config          []string
	bounds          bounds
}

// settle says what git goes by, and gives it its folder. From then on the
// folder may hold links to anywhere.
func (g *git) settle(cfg Config) error {
	g.config = []string{
		"protocol.allow=never", "protocol.https.allow=always", "http.followRedirects=false", "http.sslVerify=true",
		"http.userAgent=" + userAgent, "http.lowSpeedLimit=1", "http.lowSpeedTime=60",
		"core.hooksPath=/dev/null", "core.fsmonitor=false", "core.attributesFile=/dev/null",
		"core.bigFileThreshold=16m", "core.packedGitWindowSize=16m", "core.packedGitLimit=128m", "core.deltaBaseCacheLimit=64m",
		"credential.helper=", "credential.interactive=false", "core.askPass=", "fetch.recurseSubmodules=false", "submodule.recurse=false",
		"transfer.bundleURI=false", "transfer.fsckObjects=true", "fetch.unpackLimit=1", "gc.auto=0", "maintenance.auto=false",
		"pack.threads=1", "index.version=2", "safe.directory=*",
	}
	if cfg.CA == "" {
		return dropped(g.dir)
	}
	bundle, err := os.ReadFile(cfg.CA)
	if err != nil {
		return err
	}
	if system, err := os.ReadFile("/etc/ssl/certs/ca-certificates.crt"); err == nil {
		bundle = append(append(system, '\n'), bundle...)
	}
	ca := filepath.Join(g.dir, "ca.pem")
	g.config = append(g.config, "http.sslCAInfo="+ca)
	if err := os.WriteFile(ca, bundle, 0o644); err != nil {
		return err
	}
	return dropped(g.dir)
}

// pin looks the host up and has git dial the address that was checked.
func (g *git) pin(ctx context.Context, in Input, private bool) error {
	if private {
		return nil
	}
	host, port := in.URL.Hostname(), in.URL.Port()
	if port == "" {
		port = "443"
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return webFailure(err)
	}
	var good []string
	what := "unknown"
	for _, a := range addrs {
		var ok bool
		if ok, what = egress.Public(a); ok {
			good = append(good, bracketed(a.Unmap()))
		}
	}
	if len(good) == 0 {
		return refused("%s", &errNotPublic{what})
	}
	g.config = append(g.config, "http.curloptResolve="+host+":"+port+":"+strings.Join(good, ","))
	return nil
}

func bracketed(a netip.Addr) string {
	if a.Is6() {
		return "[" + a.WithZone("").String() + "]"
	}
	return a.String()
}

func (g *git) command(ctx context.Context, args ...string) *exec.Cmd {
	all := []string{"-c", g.bounds.script(), g.path}
	for _, c := range g.config {
		all = append(all, "-c", c)
	}
	cmd := exec.CommandContext(ctx, "/bin/sh", append(all, args...)...)
	cmd.Dir = g.dir
	cmd.Env = []string{
		gitPath, "HOME=" + g.dir, "LC_ALL=C", "GIT_DIR=" + g.repo,
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_ATTR_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0", "GIT_ASKPASS=/bin/false", "SSH_ASKPASS=/bin/false",
		"GIT_ALLOW_PROTOCOL=https", "GIT_PROTOCOL_FROM_USER=0", "GIT_LFS_SKIP_SMUDGE=1", "GIT_NO_REPLACE_OBJECTS=1", "GIT_OPTIONAL_LOCKS=0", "GIT_NO_LAZY_FETCH=1",
	}
	cmd.WaitDelay = 5 * time.Second
	confine(cmd)
	return cmd
}

// run runs git to its end and gives its output, of which there is little.
func (g *git) run(ctx context.Context, args ...string) ([]byte, error) {
	var out, complaint tail
	cmd := g.command(ctx, args...)
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	if err := wait(cmd); err != nil {
		return nil, g.failure(ctx, args[0], complaint.String())
	}
	return out.Bytes(), nil
}

// failure is why a command of git failed.
func (g *git) failure(ctx context.Context, verb, said string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := g.bounds.reached(said); err != nil {
		return err
	}
	words := lastComplaint(said)
	if strings.Contains(words, "not our ref") || strings.Contains(words, "unadvertised object") {
		return refused("the server does not have the commit, or does not give single commits")
	}
	return passing("git %s failed: %s", verb, words)
}

// tail keeps the end of what git says.
type tail struct{ bytes.Buffer }

func (t *tail) Write(p []byte) (int, error) {
	t.Buffer.Write(p)
	if t.Len() > 2*maxGitAnswer {
		t.Next(t.Len() - maxGitAnswer)
	}
	return len(p), nil
}

// lastComplaint is git's own last line, never the server's.
func lastComplaint(text string) string {
	words := "it gave no reason"
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, "fatal: "); ok {
			words = strings.TrimSpace(rest)
		}
	}
	words = strings.ToValidUTF8(words[:min(len(words), maxGitWords)], "")
	quoted := strconv.QuoteToGraphic(words)
	return quoted[1 : len(quoted)-1]
}

func (g *git) fetch(ctx context.Context, in Input) error {
	format := "sha1"
	if len(in.Commit) == 64 {
		format = "sha256"
	}
	if _, err := g.run(ctx, "init", "--quiet", "--bare", "--template=", "--object-format="+format, g.repo); err != nil {
		return err
	}
	from := "https://" + in.URL.Host + in.URL.EscapedPath()
	if _, err := g.run(ctx, "fetch", "--quiet", "--depth=1", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--no-auto-maintenance", "--", from, in.Commit); err != nil {
		return err
	}
	kind, err := g.run(ctx, "cat-file", "-t", in.Commit)
	if err != nil {
		return err
	}
	if k := strings.TrimSpace(string(kind)); k != "commit" {
		return refused("%s is a %s, no commit", in.Commit, k)
	}
	return nil
}

// blob is one entry of the commit's tree.
type blob struct {
	mode, id, name string
}

// files writes the commit's files.
func (g *git) files(ctx context.Context, in Input, j *load) error {
	blobs, err := g.list(ctx, in)
	if err != nil {
		return err
	}
	running, cancel := context.WithCancel(ctx)
	defer cancel()
	var complaint tail
	cmd := g.command(running, "cat-file", "--batch")
	cmd.Stderr = &complaint
	ask, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	answer, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	failed := writeBlobs(in, j, ask, bufio.NewReaderSize(answer, 256<<10), blobs)
	if failed != nil && !errors.Is(failed, errEarly) {
		cancel()
	}
	ask.Close()
	if err := wait(cmd); err != nil && running.Err() == nil || ctx.Err() != nil {
		return g.failure(ctx, "cat-file", complaint.String())
	}
	return failed
}

// errEarly is the end of git before its answer's.
var errEarly = passing("git ended early")

func writeBlobs(in Input, j *load, ask io.Writer, r *bufio.Reader, blobs []blob) error {
	var links []blob
	for _, b := range blobs {
		switch b.mode {
		case "160000": // another repository, which is not fetched
			if err := j.draft.Dir(path.Join(in.Name, b.name)); err != nil {
				return refused("its tree cannot be written: %s", err)
			}
			continue
		case "120000":
			links = append(links, b)
			continue
		}
		if err := writeBlob(in, j, ask, r, b); err != nil {
			return err
		}
	}
	for _, b := range links { // after the files, so that none is written through one
		if err := writeBlob(in, j, ask, r, b); err != nil {
			return err
		}
	}
	return nil
}

// list reads the commit's tree.
func (g *git) list(ctx context.Context, in Input) ([]blob, error) {
	running, cancel := context.WithCancel(ctx)
	defer cancel()
	var complaint tail
	cmd := g.command(running, "ls-tree", "-r", "-z", "--full-tree", in.Commit)
	cmd.Stderr = &complaint
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	all, failed := blobsOf(out)
	if failed != nil && !errors.Is(failed, errEarly) {
		cancel()
	}
	if err := wait(cmd); err != nil && running.Err() == nil || ctx.Err() != nil {
		return nil, g.failure(ctx, "ls-tree", complaint.String())
	}
	if failed != nil {
		return nil, failed
	}
	return all, nil
}

// blobsOf reads what ls-tree says.
func blobsOf(out io.Reader) ([]blob, error) {
	scan := bufio.NewScanner(out)
	scan.Buffer(make([]byte, 64<<10), 1<<20)
	scan.Split(func(data []byte, end bool) (int, []byte, error) {
		if i := bytes.IndexByte(data, 0); i >= 0 {
			return i + 1, data[:i], nil
		}
		if end && len(data) > 0 {
			return 0, nil, errEarly
		}
		return 0, nil, nil
	})
	var all []blob
	names := 0
	for scan.Scan() {
		meta, name, ok := strings.Cut(scan.Text(), "\t")
		f := strings.Fields(meta)
		if !ok || len(f) != 3 || !filepath.IsLocal(name) || ownedByGit(name) {
			return nil, refused("its tree holds the name %.80q, which is not written", name)
		}
		if all = append(all, blob{f[0], f[2], name}); len(all) > maxFiles {
			return nil, refused("it has more than %d files", maxFiles)
		}
		if names += len(name); names > maxNames {
			return nil, refused("the names of its files take more than %d bytes", maxNames)
		}
	}
	switch err := scan.Err(); {
	case err == nil || errors.Is(err, errEarly):
		return all, err
	default:
		return nil, passing("its tree cannot be read: %s", err)
	}
}

func ownedByGit(name string) bool {
	for part := range strings.SplitSeq(name, "/") {
		if strings.EqualFold(part, ".git") {
			return true
		}
	}
	return false
}

func writeBlob(in Input, j *load, ask io.Writer, r *bufio.Reader, b blob) error {
	if _, err := io.WriteString(ask, b.id+"\n"); err != nil {
		return errEarly
	}
	head, err := r.ReadString('\n')
	if err != nil {
		return errEarly
	}
	f := strings.Fields(head)
	if len(f) != 3 || f[1] != "blob" {
		return refused("the server left %.80q out", b.name)
	}
	size, err := strconv.ParseInt(f[2], 10, 64)
	if err != nil {
		return passing("git's answer is not understood")
	}
	if err := j.take(size); err != nil {
		return err
	}
	name, body := path.Join(in.Name, b.name), io.LimitReader(r, size)
	if b.mode == "120000" {
		if size > maxLinkTarget {
			return refused("the link %.80q is too long", b.name)
		}
		var target []byte
		if target, err = io.ReadAll(body); err == nil {
			err = j.draft.Link(name, string(target))
		}
	} else {
		mode := fs.FileMode(0o644)
		if b.mode == "100755" {
			mode = 0o755
		}
		err = j.draft.Create(name, mode, func(to io.Writer) error {
			n, err := io.Copy(to, body)
			if err == nil && n < size {
				err = errEarly
			}
			return err
		})
	}
	if err != nil {
		return err
	}
	j.add(size)
	if _, err := r.Discard(1); err != nil {
		return errEarly
	}
	return nil
}

// keep writes the .git folder: the fetched objects, an index, and settings
// that are ours.
func (g *git) keep(ctx context.Context, in Input, j *load) error {
	if _, err := g.run(ctx, "read-tree", in.Commit); err != nil {
		return err
	}
	to := path.Join(in.Name, ".git")
	format := ""
	version := "0"
	if len(in.Commit) == 64 {
		version, format = "1", "[extensions]\n\tobjectFormat = sha256\n"
	}
	u := *in.URL
	u.Scheme = "https"
	texts := map[string]string{
		"HEAD":   in.Commit + "\n",
		"config": fmt.Sprintf("[core]\n\trepositoryformatversion = %s\n\tfilemode = true\n\tbare = false\n%s[remote \"origin\"]\n\turl = %s\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n", version, format, u.String()),
	}
	for name, text := range texts {
		if err := j.draft.Create(path.Join(to, name), 0o644, func(f io.Writer) error { _, err := io.WriteString(f, text); return err }); err != nil {
			return err
		}
	}
	if err := j.draft.Dir(path.Join(to, "refs/heads")); err != nil {
		return err
	}
	repo := filepath.Base(g.repo)
	return fs.WalkDir(g.root.FS(), repo, func(name string, e fs.DirEntry, err error) error {
		rel, ok := strings.CutPrefix(name, repo+"/")
		if err != nil || !ok || !e.Type().IsRegular() || !(rel == "index" || rel == "shallow" || strings.HasPrefix(rel, "objects/")) {
			return err
		}
		from, err := g.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		defer from.Close()
		info, err := from.Stat()
		if err == nil && !info.Mode().IsRegular() {
			err = passing("git's folder changes while it is read")
		}
		if err == nil {
			err = j.take(info.Size())
		}
		if err != nil {
			return err
		}
		return j.draft.Create(path.Join(to, rel), 0o644, func(f io.Writer) error {
			n, err := io.Copy(f, from)
			j.add(n)
			return err
		})
	})
}
