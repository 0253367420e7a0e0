package till

import (
	"context"
	"time"

	"github.com/till-proxy/till/admin/wire"
)

// checkInterval is how often files are checked. Their contents are read, and not their
// dates: that works for files that are overwritten, moved into place, or reached by
// links that are switched, on every file system; and the files are few and small.
const checkInterval = time.Second

// stopTime is how long a check may go on after the app stops. A check that takes longer
// is waiting for a disk that does not answer, and applies nothing any more.
const stopTime = 2 * time.Second

// watch checks the files of the configuration until stopWatching is called.
func (a *App) watch() {
	if len(a.sources) == 0 {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	a.stopWatching = func() {
		cancel()
		select {
		case <-done:
		case <-time.After(stopTime):
		}
	}
	go func() {
		defer close(done)
		ticker := time.NewTicker(checkInterval)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			for _, s := range a.sources {
				s.check(ctx, a.logger)
			}
		}
	}()
}

// Files lists the watched files of the configuration.
func (a *App) Files() []wire.File {
	var files []wire.File
	for _, s := range a.sources {
		files = append(files, s.state())
	}
	return files
}

// checkOverdue is the age of the last check at which it is reported.
const checkOverdue = time.Minute

// diagnoseSources finds files whose current content is not in force.
func (a *App) diagnoseSources(d *diagnosis) {
	for what, err := range a.doubtful() {
		d.warn("doubtful_secret", "write only the secret into its file, or leave it if this is intended", "%s %s", what, err)
	}
	for _, f := range a.Files() {
		switch {
		case f.Trouble != "":
			d.error("file_not_taken", "write all of it and move it into place: mv "+f.Paths[0]+".new "+f.Paths[0],
				"a change of %s is not taken: %s; what was read before stays in force until the server ends, and then it does not start", f.What, f.Trouble)
		case !f.ReadAt.IsZero() && time.Since(f.ReadAt) > checkOverdue:
			d.error("file_not_taken", "check the disk that it is on", "%s could not be read since %s, so no change of it is seen", f.What, f.ReadAt.Format(time.RFC3339))
		}
	}
}
