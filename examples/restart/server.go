package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"google.golang.org/grpc"

	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
)

// takes is how long a call takes at the server.
const takes = 10 * time.Millisecond

type service struct {
	testv1.UnimplementedTestServiceServer
}

func (service) Get(ctx context.Context, req *testv1.GetRequest) (*testv1.GetResponse, error) {
	return &testv1.GetResponse{Id: req.GetId()}, work(ctx)
}

func (service) Pay(ctx context.Context, req *testv1.PayRequest) (*testv1.PayResponse, error) {
	return &testv1.PayResponse{Id: req.GetId()}, work(ctx)
}

func work(ctx context.Context) error {
	select {
	case <-time.After(takes):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// serve is the server process. SIGTERM stops it gracefully.
func serve(addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	srv := grpc.NewServer()
	testv1.RegisterTestServiceServer(srv, service{})
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGTERM)
	go func() {
		<-asked
		srv.GracefulStop()
	}()
	return srv.Serve(l)
}

// process is this program as the server.
type process struct{ cmd *exec.Cmd }

// start starts the server, and returns when it takes connections.
func start(addr string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{exec.Command(self, "-serve", addr)}
	p.cmd.Stderr = os.Stderr
	p.cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0") // with the race detector it would be gone a second later
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	for range 500 {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			return p, conn.Close()
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil, errors.Join(fmt.Errorf("the server at %s does not start", addr), p.stop(false))
}

// stop ends the process, and waits until it has: at once, or once its calls have ended.
func (p *process) stop(graceful bool) error {
	how := os.Kill
	if graceful {
		how = syscall.SIGTERM
	}
	if err := p.cmd.Process.Signal(how); err != nil {
		return err
	}
	err := p.cmd.Wait()
	if _, killed := errors.AsType[*exec.ExitError](err); killed && !graceful {
		return nil
	}
	return err
}

// freeAddress returns an address on this machine that nobody listens at.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}
