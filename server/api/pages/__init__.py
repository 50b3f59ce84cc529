"""What a browser is shown: the dashboard and the playground, fed by one event stream."""
