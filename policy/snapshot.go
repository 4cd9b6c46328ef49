package policy

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/rego-go/rego/internal/plainfile"
	"github.com/rego-go/rego/internal/wirebound"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// Snapshot keeps the last good set in a file, for processes that start while their source is
// out of reach. NewStore reads the file, and its set is in force, as StateStale, until a
// source has reported. From then on each set of a source is written to the file, in the
// background: a disk that hangs holds up nothing.
//
// A missing file is no fault. A file is ignored if it is truncated or corrupt, if its set is
// not valid any more, or if others than the process's user and root may write it.
// Status.SnapshotErr says so. It also says why a file could not be written. Then rego tries
// again after a second, and less and less often, down to once a minute, until the disk has
// room. A file is replaced as a whole (written under another name, synced and renamed), so
// it is never half-written. Its folder must exist, and the process must be able to write in
// it.
func Snapshot(path string) StoreOption { return &snapshot{path: path} }

type snapshot struct {
	path string

	// Guarded by the store's mu.
	pending  *regov1.Snapshot // to be written
	writing  bool
	unsaved  *regov1.Snapshot // could not be written, and is tried again
	failures int              // since one was written
}

// tryAgain is the wait after a snapshot could not be written.
var tryAgain = Backoff{Initial: time.Second, Multiplier: 2, Max: time.Minute, Jitter: JitterNone}

// snapshotSource is the name of a snapshot as a source.
const snapshotSource = "snapshot"

func (s *snapshot) open(st *Store) {
	st.snapshot = s
	m, err := readSnapshot(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var set Set
	if err == nil {
		set, err = FromProto(m.GetSet())
	}
	var t *Table
	if err == nil {
		t, err = set.Compile()
	}
	if err != nil {
		st.status.SnapshotErr = fmt.Errorf("snapshot %s: %w", s.path, err)
		return
	}
	accepted := m.GetAccepted().AsTime()
	if now := time.Now(); accepted.After(now) { // a clock was wrong
		accepted = now
	}
	st.status = Status{Source: snapshotSource, Accepted: accepted, Confirmed: accepted, known: true, kept: true}
	st.origin = m.GetSource()
	describe(&st.status, t)
	st.current.Store(t)
}

// saveLocked has the table written. Of tables that come while one is being written
// only the newest is.
func (st *Store) saveLocked(t *Table) {
	s := st.snapshot
	if s == nil {
		return
	}
	s.unsaved = nil
	s.pending = &regov1.Snapshot{Set: t.set.Proto(), Source: st.status.Source, Accepted: timestamppb.New(st.status.Accepted)}
	st.startWritingLocked()
}

func (st *Store) startWritingLocked() {
	if s := st.snapshot; !s.writing {
		s.writing = true
		go st.writeSnapshots()
	}
}

// saveAgain has what could not be written tried again, if nothing newer was since.
func (st *Store) saveAgain(m *regov1.Snapshot) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if s := st.snapshot; s.unsaved == m {
		s.unsaved, s.pending = nil, m
		st.startWritingLocked()
	}
}

// writeSnapshots writes what is pending, and ends when nothing is.
func (st *Store) writeSnapshots() {
	st.mu.Lock()
	defer st.mu.Unlock()
	s := st.snapshot
	for s.pending != nil {
		m := s.pending
		s.pending = nil
		st.mu.Unlock()
		err := writeSnapshot(s.path, m)
		st.mu.Lock()
		if err != nil {
			err = fmt.Errorf("snapshot %s: %w", s.path, err)
			if s.pending == nil {
				s.unsaved = m
				time.AfterFunc(tryAgain.Delay(s.failures, nil), func() { st.saveAgain(m) })
			}
			s.failures++
		} else {
			s.failures = 0
		}
		if (err == nil) != (st.status.SnapshotErr == nil) {
			st.notifyLocked()
		}
		st.status.SnapshotErr = err
	}
	s.writing = false
}

// snapshotMagic names the format. It is followed by the SHA-256 of the rest, a
// regov1.Snapshot.
const snapshotMagic = "rego snapshot 1\n"

func readSnapshot(path string) (*regov1.Snapshot, error) {
	file, info, err := plainfile.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close() //nolint:errcheck // it was only read
	if err := plainfile.CheckOwn(info); err != nil {
		return nil, err
	}
	const most = MaxSize + 4096
	b, err := io.ReadAll(io.LimitReader(file, most+1))
	if err != nil {
		return nil, err
	}
	rest, ok := bytes.CutPrefix(b, []byte(snapshotMagic))
	switch {
	case len(b) > most:
		return nil, fmt.Errorf("has more than %d bytes", most)
	case !ok:
		return nil, errors.New("is not a snapshot")
	case len(rest) < sha256.Size:
		return nil, errors.New("is truncated")
	}
	if sum := sha256.Sum256(rest[sha256.Size:]); !bytes.Equal(sum[:], rest[:sha256.Size]) {
		return nil, errors.New("is truncated or corrupt: its checksum is wrong")
	}
	if err := wirebound.CheckWithin(rest[sha256.Size:], new(regov1.Snapshot).ProtoReflect().Descriptor()); err != nil {
		return nil, err
	}
	m := new(regov1.Snapshot)
	if err := proto.Unmarshal(rest[sha256.Size:], m); err != nil {
		return nil, err
	}
	return m, nil
}

func writeSnapshot(path string, m *regov1.Snapshot) (err error) {
	b, err := proto.Marshal(m)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(b)
	file, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(file.Name()))
		}
	}()
	for _, part := range [][]byte{[]byte(snapshotMagic), sum[:], b} {
		if _, err = file.Write(part); err != nil {
			return errors.Join(err, file.Close())
		}
	}
	if err = errors.Join(file.Sync(), file.Close()); err != nil {
		return err
	}
	return os.Rename(file.Name(), path)
}
