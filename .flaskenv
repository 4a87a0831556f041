# Read by `flask` alone: a developer's `flask run` needs nothing else. Production sets APP_ENV=production.
APP_ENV=development
FLASK_APP=app
FLASK_RUN_PORT=${PORT:-8080}
