// Package etcdtest starts clusters of etcd for tests and examples: every member is a process of
// its own, on the loopback interface, that can be killed, cut off from the others, or cut off
// from its clients.
//
// A member is the program itself, started once more. So a program that uses the package calls
// [Main] first of all.
package etcdtest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/rego-go/rego/policy/etcd"
)

// Ticks are what etcd counts elections in, ten to an election timeout: a cluster has a new
// leader about a second after it has lost one.
const ticks = 100 * time.Millisecond

// startFor is how long a process may take to be a member, and the cluster to elect a leader.
const startFor = time.Minute

// Cluster is a cluster of etcd. Its members are numbered from 0. Its methods are for one
// goroutine at a time.
type Cluster struct {
	dir   string
	nodes []*node
}

type node struct {
	member  member
	host    string // by which the others know it
	peer    *address
	client  *address
	peers   *gate // for what goes between it and the others
	front   *front
	way     *way
	process *exec.Cmd // nil while it is down
	stdin   func() error
	log     *os.File
}

// Start starts a cluster of n members, and returns when it answers. It keeps its data, and the
// logs of its members, in dir. The caller closes it.
func Start(dir string, n int) (*Cluster, error) {
	c := &Cluster{dir: dir}
	if err := c.start(n); err != nil {
		c.Close()
		return nil, fmt.Errorf("etcdtest: %w", err)
	}
	return c, nil
}

func (c *Cluster) start(n int) error {
	for i := range n {
		c.nodes = append(c.nodes, &node{
			host: fmt.Sprintf("member-%d.invalid", i),
			peer: &address{}, client: &address{}, peers: newGate(),
		})
	}
	// From here on, proxies read what was made above.
	var all []string
	for i, node := range c.nodes {
		var err error
		if node.front, err = newFront(node.client); err != nil {
			return err
		}
		if node.way, err = newWay(func(ctx context.Context, host string) (net.Conn, error) { return c.dial(ctx, node, host) }); err != nil {
			return err
		}
		node.member = member{
			Name: fmt.Sprintf("member-%d", i), Dir: filepath.Join(c.dir, fmt.Sprintf("member-%d", i)),
			Peer: "http://" + node.host + ":2380", Client: "http://" + node.front.listener.Addr().String(), Tick: ticks,
		}
		all = append(all, node.member.Name+"="+node.member.Peer)
	}
	for _, node := range c.nodes {
		node.member.Cluster = strings.Join(all, ",")
	}
	for i := range n {
		if err := c.Restart(i); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), startFor)
	defer cancel()
	for i := range n {
		err := c.with(i, func(client *clientv3.Client) error {
			_, err := client.Get(ctx, "any")
			return err
		})
		if err != nil {
			return fmt.Errorf("member %d does not answer: %w", i, err)
		}
	}
	return nil
}

// dial connects a member with another, for as long as neither is cut off.
func (c *Cluster) dial(ctx context.Context, from *node, host string) (net.Conn, error) {
	for _, to := range c.nodes {
		if to.host != host {
			continue
		}
		conn, err := to.peer.dial(ctx)
		if err != nil {
			return nil, err
		}
		return newGated(conn, from.peers, to.peers), nil
	}
	return nil, fmt.Errorf("etcdtest: there is no %s", host)
}

// Endpoints are the addresses of all members for clients. They stay the same over restarts.
func (c *Cluster) Endpoints() []string {
	all := make([]string, len(c.nodes))
	for i := range c.nodes {
		all[i] = c.Endpoint(i)
	}
	return all
}

// Endpoint is the address of a member for clients.
func (c *Cluster) Endpoint(i int) string { return c.nodes[i].member.Client }

// Kill kills the process of a member, which has no time to say goodbye.
func (c *Cluster) Kill(i int) {
	n := c.nodes[i]
	if n.process == nil {
		return
	}
	n.client.set("")
	n.peer.set("")
	_ = n.process.Process.Kill()
	_ = n.process.Wait() // its error is that it was killed
	_ = n.stdin()
	_ = n.log.Close()
	n.process = nil
}

// Restart starts a member that was killed. It returns when the member listens, which may be
// before it has found the others.
func (c *Cluster) Restart(i int) error {
	n := c.nodes[i]
	if n.process != nil {
		return fmt.Errorf("member %d is up", i)
	}
	text, err := json.Marshal(n.member)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if n.log, err = os.OpenFile(n.member.Dir+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		return err
	}
	p := exec.Command(self)
	p.Env = append(os.Environ(), memberEnv+"="+string(text), "HTTP_PROXY="+n.way.url, "http_proxy="+n.way.url, "NO_PROXY=", "no_proxy=")
	p.Stderr = n.log
	stdin, err := p.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := p.StdoutPipe()
	if err != nil {
		return err
	}
	if err := p.Start(); err != nil {
		return err
	}
	n.process, n.stdin = p, stdin.Close
	// A member that says nothing is killed, which ends its output.
	late := time.AfterFunc(startFor, func() { _ = p.Process.Kill() })
	defer late.Stop()
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		if peer, client, ok := addresses(lines.Text()); ok {
			n.peer.set(peer)
			n.client.set(client)
			return nil
		}
	}
	c.Kill(i)
	said, _ := os.ReadFile(n.member.Dir + ".log")
	return fmt.Errorf("member %d did not start: %s", i, said)
}

// Partition cuts a member off from the other members, silently. Clients reach it still.
func (c *Cluster) Partition(i int) { c.nodes[i].peers.set(false) }

// Silence cuts a member off from its clients: connections stay, and nothing passes. The other
// members reach it still.
func (c *Cluster) Silence(i int) { c.nodes[i].front.gate.set(false) }

// Heal ends what Partition and Silence have done.
func (c *Cluster) Heal(i int) {
	c.nodes[i].peers.set(true)
	c.nodes[i].front.gate.set(true)
}

// with runs f with a client of one member, which [Cluster.Silence] does not touch.
func (c *Cluster) with(i int, f func(*clientv3.Client) error) error {
	to := c.nodes[i].client.get()
	if to == "" {
		return fmt.Errorf("member %d is down", i)
	}
	client, err := clientv3.New(etcd.Config(to))
	if err != nil {
		return err
	}
	return errors.Join(f(client), client.Close())
}

// Leader returns the member that leads, as the members see it that are up: of those that
// differ, the one that knows of the latest election.
func (c *Cluster) Leader(ctx context.Context) (int, error) {
	ids := make(map[uint64]int)
	var leader, term uint64
	for i, n := range c.nodes {
		if n.process == nil {
			continue
		}
		err := c.with(i, func(client *clientv3.Client) error {
			s, err := client.Status(ctx, n.client.get())
			if err != nil {
				return err
			}
			ids[s.Header.GetMemberId()] = i
			if s.Leader != 0 && s.RaftTerm > term {
				leader, term = s.Leader, s.RaftTerm
			}
			return nil
		})
		if err != nil {
			return 0, fmt.Errorf("etcdtest: member %d: %w", i, err)
		}
	}
	i, ok := ids[leader]
	if !ok {
		return 0, errors.New("etcdtest: there is no leader")
	}
	return i, nil
}

// MoveLeader has another member lead, and returns when it does.
func (c *Cluster) MoveLeader(ctx context.Context, to int) error {
	from, err := c.Leader(ctx)
	if err != nil || from == to {
		return err
	}
	var id uint64
	err = c.with(to, func(client *clientv3.Client) error {
		s, err := client.Status(ctx, c.nodes[to].client.get())
		if err == nil {
			id = s.Header.GetMemberId()
		}
		return err
	})
	if err == nil {
		err = c.with(from, func(client *clientv3.Client) error {
			_, err := client.MoveLeader(ctx, id)
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("etcdtest: move the leader from %d to %d: %w", from, to, err)
	}
	return nil
}

// Close kills all members. Their data stays in the folder.
func (c *Cluster) Close() {
	for i, n := range c.nodes {
		c.Kill(i)
		if n.front != nil {
			n.front.close()
		}
		if n.way != nil {
			n.way.close()
		}
	}
}
