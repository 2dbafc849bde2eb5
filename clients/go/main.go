// Streams what the model says after a prompt.
//
//	go run . -address 127.0.0.1:50051 "Once upon a time"
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "llm-serving-engine-go-example/enginev1"
)

func main() {
	address := flag.String("address", "127.0.0.1:50051", "where the server listens, HOST:PORT")
	timeout := flag.Duration("timeout", time.Minute, "how long the answer may take, its wait in the queue included")
	flag.Parse()
	prompt := flag.Arg(0)
	if prompt == "" {
		prompt = "Once upon a time"
	}

	// Ctrl-C cancels the request, and with it the server's work.
	interrupted, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	ctx, cancel := context.WithTimeout(interrupted, *timeout)
	defer cancel()

	if err := stream(ctx, *address, prompt); err != nil {
		fmt.Fprintf(os.Stderr, "\n%s: %s\n", status.Code(err), status.Convert(err).Message())
		os.Exit(1)
	}
}

// stream prints the answer to prompt as it is produced.
func stream(ctx context.Context, address, prompt string) error {
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()

	events, err := pb.NewInferenceServiceClient(connection).Stream(ctx, &pb.GenerateRequest{
		Input:     &pb.GenerateRequest_Prompt{Prompt: prompt},
		MaxTokens: proto.Uint32(64),
		Sampling:  &pb.Sampling{Temperature: proto.Float32(0)},
	})
	if err != nil {
		return err
	}
	for {
		event, err := events.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if delta := event.GetDelta(); delta != nil {
			fmt.Print(delta.GetText())
		}
		if finished := event.GetFinished(); finished != nil {
			fmt.Printf("\n\n%s, %d tokens\n", finished.GetFinishReason(), finished.GetUsage().GetCompletionTokens())
		}
	}
}
