package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"
)

// process is a program of the incident: rego, or this program in the role of a client.
type process struct {
	name string
	cmd  *exec.Cmd
	said chan struct{} // closed when its output has ended
	told shown         // by its page, when it was printed last

	mu    sync.Mutex
	lines []string // of its output
}

// start starts a program, and reads what it prints to one of its two outputs.
func start(name string, cmd *exec.Cmd, output func() (io.ReadCloser, error)) (*process, error) {
	p := &process{name: name, cmd: cmd, said: make(chan struct{})}
	out, err := output()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go p.read(out) // until the process has ended
	return p, nil
}

// startSelf runs this program in a role and in a folder.
func startSelf(name, dir string, args ...string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, args...)
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	return start(name, cmd, cmd.StdoutPipe)
}

func (p *process) read(out io.Reader) {
	defer close(p.said)
	for lines := bufio.NewScanner(out); lines.Scan(); {
		p.mu.Lock()
		p.lines = append(p.lines, lines.Text())
		p.mu.Unlock()
	}
}

// kill ends the process without a word, and waits until it has.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.said
	_ = p.cmd.Wait() // it was killed
}

// until waits for something that a process does, and no longer than the process lives.
func (p *process) until(what string, ok func() bool) error {
	ended := false
	_, err := await(p.name+" "+what, func() bool {
		select {
		case <-p.said:
			ended = true
		default:
		}
		return ok() || ended
	})
	if err == nil && !ok() {
		return fmt.Errorf("%s has ended: %s", p.name, p.find(""))
	}
	return err
}

// find returns the last line that has a text in it, or nothing.
func (p *process) find(text string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, line := range slices.Backward(p.lines) {
		if strings.Contains(line, text) {
			return line
		}
	}
	return ""
}

// printed returns how many lines there are.
func (p *process) printed() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.lines)
}

// since returns all lines but for the first n.
func (p *process) since(n int) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.lines[n:])
}

// last returns the newest report of a client.
func (p *process) last() (r report) {
	_ = json.Unmarshal([]byte(p.find("{")), &r) // before the first line there is none
	return r
}

// reports returns all reports of a client.
func (p *process) reports() (all []report) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, line := range p.lines {
		var r report
		if json.Unmarshal([]byte(line), &r) == nil {
			all = append(all, r)
		}
	}
	return all
}

// patience is how long a step may take.
const patience = time.Minute

// await waits until ok, and returns how long that took.
func await(what string, ok func() bool) (time.Duration, error) {
	start := time.Now()
	for range time.Tick(10 * time.Millisecond) {
		if ok() {
			break
		}
		if time.Since(start) > patience {
			return 0, fmt.Errorf("%s: not within %v", what, patience)
		}
	}
	return time.Since(start), nil
}
