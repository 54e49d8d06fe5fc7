package docker_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/docker"
	"github.com/berthdev/berth/internal/sandbox/docker/dockertest"
)

// TestStillborn finds the container of a worker that was killed while it looked
// into an image: it bears no sandbox's name, and nobody will ever start it.
func TestStillborn(t *testing.T) {
	d := newDriver(t, nil)
	if p := d.Probe(t.Context()); !p.OK {
		t.Skipf("docker cannot run here: %s (%s)", p.Reason, p.Cure)
	}
	api, err := client.New(client.WithHost(dockertest.Host(t)))
	if err != nil {
		t.Fatal(err)
	}
	defer api.Close()
	images, err := api.ImageList(t.Context(), client.ImageListOptions{})
	if err != nil || len(images.Items) == 0 {
		t.Fatalf("the probe has left no image: %v", err)
	}
	made, err := api.ContainerCreate(t.Context(), client.ContainerCreateOptions{Config: &container.Config{
		Image: images.Items[0].ID, Entrypoint: []string{"/never"}, Labels: map[string]string{"berth": "sandbox"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer api.ContainerRemove(context.WithoutCancel(t.Context()), made.ID, client.ContainerRemoveOptions{Force: true})
	others := func(string) bool { return true } // its name may be another worker's
	for in, want := range map[time.Duration]bool{0: false, time.Hour: true} {
		undo := docker.SetClock(func() time.Time { return time.Now().Add(in) })
		left, err := d.Leftovers(t.Context(), others)
		undo()
		found := slices.IndexFunc(left, func(l sandbox.Leftover) bool { return l.Kind == "container" })
		if err != nil || found >= 0 != want {
			t.Fatalf("after %v: %v %v", in, left, err)
		}
		if want {
			if err := left[found].Remove(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := api.ContainerInspect(t.Context(), made.ID, client.ContainerInspectOptions{}); err == nil {
		t.Error("it is still there")
	}
}
