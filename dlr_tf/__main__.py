from dlr_tf.app.cli import main

raise SystemExit(main())
