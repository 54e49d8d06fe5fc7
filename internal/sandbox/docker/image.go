package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/berthdev/berth/internal/agentwire"
	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/inside"
)

// image is what a driver knows of an image that the daemon holds.
type image struct {
	ref     string // by which the daemon knows it
	id      string
	env     []string
	volumes []string
	bash    string
	passwd  []byte
	group   []byte
	host    bool // its programs are the host's
}

// bashes are where bash is looked for.
var bashes = []string{"/bin/bash", "/usr/bin/bash", "/usr/local/bin/bash"}

// maxUsers bounds an image's passwd and group files.
const maxUsers = 1 << 20

// find gives the daemon's image for what a spec names: the host's programs, a
// file or directory with an image, or a name that the daemon knows.
func (d *Driver) find(ctx context.Context, api *client.Client, want *sandbox.Image) (*image, error) {
	if want == nil {
		ref, err := d.load(ctx, api, "", hostImage)
		if err != nil {
			return nil, fmt.Errorf("docker: an image for the host's programs: %w", err)
		}
		return &image{ref: ref, bash: "/bin/bash", host: true}, nil
	}
	ref := want.Ref
	if isPath(ref) {
		var err error
		if ref, err = d.load(ctx, api, ref, func() (v1.Image, func(), error) { return openImage(want.Ref) }); err != nil {
			return nil, fmt.Errorf("docker: image %s: %w", want.Ref, err)
		}
	}
	res, err := api.ImageInspect(ctx, ref)
	if errdefs.IsNotFound(err) {
		return nil, &trouble{"the Docker daemon has no image " + ref, "docker pull " + ref + ", or name a file with an image (./image.tar)"}
	}
	if err != nil {
		return nil, fmt.Errorf("docker: image %s: %w", ref, err)
	}
	d.mu.Lock()
	known := d.images[res.ID]
	d.mu.Unlock()
	if known != nil {
		return known, nil
	}
	im := &image{ref: ref, id: res.ID}
	if res.Config != nil {
		im.env = res.Config.Env
		for v := range res.Config.Volumes {
			im.volumes = append(im.volumes, v)
		}
	}
	if err := d.look(ctx, api, im); err != nil {
		return nil, err
	}
	d.mu.Lock()
	d.images[im.id] = im
	d.mu.Unlock()
	return im, nil
}

// isPath says that an image is named by where it lies.
func isPath(ref string) bool {
	return strings.HasPrefix(ref, "/") || strings.HasPrefix(ref, "./") || strings.HasPrefix(ref, "../")
}

// load brings an image to the daemon, once, under a name made of its content.
// key remembers it between calls; "" stands for the host's programs.
func (d *Driver) load(ctx context.Context, api *client.Client, key string, open func() (v1.Image, func(), error)) (string, error) {
	d.loading.Lock()
	defer d.loading.Unlock()
	ref := d.loaded[key]
	if ref != "" && key == "" {
		if _, err := api.ImageInspect(ctx, ref); err == nil {
			return ref, nil
		}
	}
	im, done, err := open()
	if err != nil {
		return "", err
	}
	defer done()
	digest, err := im.ConfigName()
	if err != nil {
		return "", err
	}
	tag, err := name.NewTag("berth.local/image:" + digest.Hex)
	if err != nil {
		return "", err
	}
	d.loaded[key] = tag.String()
	if _, err := api.ImageInspect(ctx, tag.String()); err == nil {
		return tag.String(), nil
	}
	r, w := io.Pipe()
	written := make(chan struct{})
	go func() {
		defer close(written)
		w.CloseWithError(tarball.Write(tag, im, w))
	}()
	res, err := api.ImageLoad(ctx, r, client.ImageLoadWithQuiet(true))
	if err == nil {
		_, err = io.Copy(io.Discard, res)
		err = errors.Join(err, res.Close())
	}
	r.Close()
	<-written
	if err != nil {
		return "", fmt.Errorf("load it: %w", err)
	}
	if _, err := api.ImageInspect(ctx, tag.String()); err != nil {
		return "", fmt.Errorf("the daemon did not keep it: %w", err)
	}
	return tag.String(), nil
}

// look finds bash and the users of an image, in a container of it that never
// runs.
func (d *Driver) look(ctx context.Context, api *client.Client, im *image) error {
	c, err := api.ContainerCreate(ctx, client.ContainerCreateOptions{
		Config: &container.Config{
			Image: im.id, Entrypoint: []string{"/berth-never-runs"}, NetworkDisabled: true, Labels: labels,
		},
		HostConfig: &container.HostConfig{NetworkMode: "none"},
	})
	if err != nil {
		return fmt.Errorf("docker: look into image %s: %w", im.ref, err)
	}
	defer func() {
		if err := remove(context.WithoutCancel(ctx), api, c.ID); err != nil {
			d.log.Warn("a container could not be removed", "container", c.ID, "err", err)
		}
	}()
	for _, at := range bashes {
		if st, err := api.ContainerStatPath(ctx, c.ID, client.ContainerStatPathOptions{Path: at}); err == nil && !st.Stat.Mode.IsDir() {
			im.bash = at
			break
		}
	}
	if im.bash == "" {
		return &trouble{"the image " + im.ref + " has no bash in " + strings.Join(bashes, ", "), "use an image with bash; the tools' shell is bash"}
	}
	if im.passwd, err = d.file(ctx, api, c.ID, "/etc/passwd"); err != nil {
		return fmt.Errorf("docker: image %s: %w", im.ref, err)
	}
	if im.group, err = d.file(ctx, api, c.ID, "/etc/group"); err != nil {
		return fmt.Errorf("docker: image %s: %w", im.ref, err)
	}
	return nil
}

// file reads a small file of a container; one that is not there, or is no
// file, is empty.
func (d *Driver) file(ctx context.Context, api *client.Client, id, at string) ([]byte, error) {
	res, err := api.CopyFromContainer(ctx, id, client.CopyFromContainerOptions{SourcePath: at})
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer res.Content.Close()
	r := tar.NewReader(res.Content)
	h, err := r.Next()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", at, err)
	}
	if h.Typeflag != tar.TypeReg {
		return nil, nil
	}
	if h.Size > maxUsers {
		return nil, fmt.Errorf("%s is larger than %d bytes", at, maxUsers)
	}
	b := make([]byte, h.Size)
	_, err = io.ReadFull(r, b)
	return b, err
}

// passwd is the image's list of users with the session's in it.
func (im *image) users(uid int) []byte {
	return withLine(im.passwd, "agent", "agent:x:"+strconv.Itoa(uid)+":"+strconv.Itoa(uid)+":agent:"+inside.Home+":"+im.bash)
}

// groups is the image's list of groups with the session's in it.
func (im *image) groups(gid int) []byte {
	return withLine(im.group, "agent", "agent:x:"+strconv.Itoa(gid)+":")
}

// withLine puts a line in the place of the one of the same name.
func withLine(b []byte, name, line string) []byte {
	if len(bytes.TrimSpace(b)) == 0 {
		b = []byte("root:x:0:")
		if strings.Count(line, ":") > 3 {
			b = []byte("root:x:0:0:root:/root:/usr/sbin/nologin")
		}
	}
	var out bytes.Buffer
	for l := range bytes.Lines(b) {
		if l = bytes.TrimRight(l, "\n"); !bytes.HasPrefix(l, []byte(name+":")) {
			out.Write(append(l, '\n'))
		}
	}
	out.WriteString(line + "\n")
	return out.Bytes()
}

// hostImage is an image of nothing but the places at which the host's programs
// are shown.
func hostImage() (v1.Image, func(), error) {
	steps, err := inside.Root(sandbox.Spec{})
	if err != nil {
		return nil, nil, err
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	put := func(h tar.Header, data []byte) {
		if err == nil {
			h.Name, h.Size = strings.TrimPrefix(h.Name, "/"), int64(len(data))
			err = w.WriteHeader(&h)
		}
		if err == nil {
			_, err = w.Write(data)
		}
	}
	for _, dir := range []string{"etc", "proc", "dev", "sys", "run", "tmp", "home", "mnt", "var", "workspace"} {
		put(tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755}, nil)
	}
	for _, s := range steps {
		switch s.Kind {
		case agentwire.StepDir:
			put(tar.Header{Typeflag: tar.TypeDir, Name: s.Target + "/", Mode: int64(s.Mode)}, nil)
		case agentwire.StepFile:
			put(tar.Header{Typeflag: tar.TypeReg, Name: s.Target, Mode: int64(s.Mode)}, s.Data)
		case agentwire.StepLink:
			put(tar.Header{Typeflag: tar.TypeSymlink, Name: s.Target, Linkname: s.Source, Mode: 0o777}, nil)
		}
	}
	if err != nil {
		return nil, nil, err
	}
	if err := w.Close(); err != nil {
		return nil, nil, err
	}
	im, err := ofLayer(b.Bytes())
	return im, func() {}, err
}

// show are the directories and files of the host that stand in a container
// without an image.
func show() (paths []string, err error) {
	steps, err := inside.Root(sandbox.Spec{})
	for _, s := range steps {
		if s.Kind == agentwire.StepBind {
			paths = append(paths, s.Target)
		}
	}
	return paths, err
}
